//! The open transaction that handlers and projections write in.
//!
//! Invariant: a transaction writes only in its commit, which is one script. The script compares the epoch of the lease,
//! the checkpoint and the noted deliveries in the same step, so it refuses to write an effect a second time.

mod append;
mod commit;
mod effects;
mod locks;
mod read_set;
mod shadow;
mod tables;
mod write_set;

use std::{any::Any, fmt, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    port::{FromTransaction, Lease, Shadow, Transaction},
};

pub(crate) use commit::Program;
pub(crate) use effects::{Effect, Undo, to_bytes};
pub(super) use shadow::{SHADOW_BATCH_MAX, list_shadow_copies, load_shadow_position, missing_shadow, unlink};
pub(super) use tables::parse_tables;

use super::{RedisEventStore, RedisTransactionError, inner::StoreInner};
use crate::script::store::{LOCK_CHECKPOINT, LOCK_DELIVERY};
use append::PlannedAppend;
use locks::TransactionLocks;
use read_set::TrackedRead;
use shadow::{ShadowSwap, plan_shadow_swap};
use tables::Table;
use write_set::WriteSet;

// States of a transaction:
//
// | state | event | next state |
// |---|---|---|
// | open, no lock | read, effect, append | open, no lock: the transaction collects them |
// | open | `advance` or `is_first`, the script replies `ok` | locked: a task renews the locks |
// | open, locked | `advance` or `is_first`, the script replies `busy` | same state: polls until the lock is free |
// | open, locked | `advance` or `is_first`, the script replies `lost` | same state: the caller gets `false` |
// | locked | `transaction_timeout` passes | timed out: the locks expire, `is_late` is true |
// | open, locked | `commit`, all checks of the script hold | committed: the script has released the locks |
// | open, locked | `commit`, a check fails or an effect is refused | ended: no write; `Drop` releases the locks |
// | open, locked | `commit`, the connection breaks | outcome unknown: `Drop` releases locks that are left |
// | timed out | `commit` | ended: `TimedOut`, no write |
// | open, locked, timed out | dropped | ended: no write; `Drop` releases the locks |

/// An open transaction of a [`RedisEventStore`]: handlers and projections take it by `&mut`, and
/// [`begin_transaction`](RedisEventStore::begin_transaction) begins one.
///
/// One script writes the effects, and the checkpoint or the note that the event was handled: all of them or none. A
/// crash neither repeats nor loses them, as long as Redis keeps what it acknowledged.
///
/// # Keys
/// Keys are given without the [`key_prefix`](crate::RedisEventStoreConfig::key_prefix); the store puts it before them,
/// as before all its keys. Without a prefix `stats:orders` is `stats:orders`. Keys that begin with `aggregate:`,
/// `projection:`, `checkpoint:` or `eventstore:` are the store's own, and refused.
///
/// In a rebuild of a projection, the keys that its `tables(..)` name mean their copies, and other keys cannot be
/// written. A table is a key, or all keys with one prefix, as `order:*`. The step that moves the checkpoint renames the
/// copies over the keys, and removes keys of such a table that the rebuild did not write.
///
/// # Examples
/// ```
/// use eventbus::prelude::*;
/// use eventbus_redis::{RedisTransaction, RedisTransactionError};
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Order")]
/// struct OrderCreated {
///     total_cents: i64,
/// }
///
/// #[derive(Default)]
/// struct OrderStats;
///
/// #[projection(name = "order-stats", tables("stats:orders"))]
/// impl OrderStats {
///     async fn created(&self, event: &OrderCreated, tx: &mut RedisTransaction) -> Result<(), RedisTransactionError> {
///         tx.hincrby("stats:orders", "total_count", 1)?;
///         tx.hincrby("stats:orders", "total_cents", event.total_cents)
///     }
/// }
/// # fn main() {}
/// ```
pub struct RedisTransaction {
    inner: Arc<StoreInner>,
    shadow: Option<Shadow>,
    locks: TransactionLocks,
    effects: Vec<Effect>,
    read_set: Vec<TrackedRead>,
    write_set: WriteSet,
    handled_deliveries: Vec<Vec<u8>>,
    checkpoint_moves: Vec<CheckpointMove>,
    shadow_swaps: Vec<ShadowSwap>,
    appends: Vec<PlannedAppend>,
}

/// A move of a checkpoint, planned for the commit.
#[derive(Debug)]
struct CheckpointMove {
    lease: Lease,
    from: Position,
    to: Position,
}

impl RedisTransaction {
    pub(super) fn new(inner: &Arc<StoreInner>, shadow: Option<Shadow>) -> Self {
        Self {
            inner: inner.clone(),
            shadow,
            locks: TransactionLocks::new(inner.clone()),
            effects: Vec::new(),
            read_set: Vec::new(),
            write_set: WriteSet::default(),
            handled_deliveries: Vec::new(),
            checkpoint_moves: Vec::new(),
            shadow_swaps: Vec::new(),
            appends: Vec::new(),
        }
    }

    fn ensure_not_in_shadow(&self, what: &'static str) -> Result<(), RedisTransactionError> {
        if self.shadow.is_some() { Err(RedisTransactionError::InShadow { what }) } else { Ok(()) }
    }
}

#[async_trait]
impl Transaction for RedisTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self
    }

    fn is_late(&self) -> bool {
        self.locks.is_timed_out()
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        if let Some(moved) = self.checkpoint_moves.iter_mut().find(|moved| moved.lease.role == lease.role) {
            let goes_on = moved.lease == *lease && moved.to == from;
            if goes_on {
                moved.to = to;
            }
            return Ok(goes_on);
        }
        let keys = self.inner.keys();
        let (checkpoint, kind) = match &self.shadow {
            Some(shadow) if shadow.name != lease.role => return Ok(false),
            Some(shadow) => (keys.shadow(&shadow.name), "hash"),
            None => (keys.checkpoint(&lease.role), "text"),
        };
        // the lock's name has the epoch: an owner need not wait for a former one, whose commit is fenced
        let lock = keys.transaction_lock("checkpoint", &format!("{}:{}", lease.epoch, lease.role));
        let mut script = LOCK_CHECKPOINT.prepare_invoke();
        script.key(keys.lease(&lease.role)).key(checkpoint).key(&lock);
        script.arg(lease.owner.as_str()).arg(lease.epoch).arg(from.get());
        script.arg(self.locks.token()).arg(self.locks.ttl_ms()).arg(kind);
        let is_acquired = self.locks.acquire(lock, &script).await?;
        if is_acquired {
            self.checkpoint_moves.push(CheckpointMove { lease: lease.clone(), from, to });
        }
        Ok(is_acquired)
    }

    async fn is_first(&mut self, handler: &Name, event: EventId) -> Result<bool, BoxError> {
        self.ensure_not_in_shadow("is_first")?;
        // names have no control characters, so a zero byte separates
        let note = [handler.as_bytes(), &[0], event.as_uuid().as_bytes()].concat();
        if self.handled_deliveries.contains(&note) {
            return Ok(false);
        }
        let keys = self.inner.keys();
        let lock = keys.transaction_lock("delivery", &format!("{event}:{handler}"));
        let mut script = LOCK_DELIVERY.prepare_invoke();
        script.key(keys.deliveries()).key(&lock);
        script.arg(&note).arg(self.locks.token()).arg(self.locks.ttl_ms());
        let is_first = self.locks.acquire(lock, &script).await?;
        if is_first {
            self.handled_deliveries.push(note);
        }
        Ok(is_first)
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        self.ensure_not_in_shadow("replace_rows")?;
        let swap = plan_shadow_swap(&self.inner, shadow).await?;
        let position = swap.position;
        self.shadow_swaps.push(swap);
        Ok(position)
    }

    /// A missing key is an empty table.
    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        let by = match Table::parse(table)? {
            Table::Prefix(_) => "key",
            Table::Key(_) => "field",
        };
        Ok(column.is_none_or(|column| column == by))
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        match (Table::parse(table)?, column) {
            (Table::Prefix(stem), "key") => Ok(self.del(&format!("{stem}{value}"))?),
            (Table::Key(key), "field") => Ok(self.hdel(key, value)?),
            _ => Err(RedisTransactionError::NoRows { table: table.into(), column: column.into() }.into()),
        }
    }

    async fn commit(self: Box<Self>) -> Result<(), BoxError> {
        Ok(Self::commit(*self).await?)
    }
}

impl FromTransaction<RedisEventStore> for RedisTransaction {
    type Transaction = Self;

    fn from_transaction(transaction: &mut Self) -> &mut Self {
        transaction
    }
}

impl fmt::Debug for RedisTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTransaction")
            .field("store", &self.inner)
            .field("effects", &self.effects.len())
            .finish_non_exhaustive()
    }
}
