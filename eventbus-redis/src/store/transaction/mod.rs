//! The open transaction that handlers and projections write in.
//!
//! Keep: nothing is written before the commit, which is one script. It looks at the epoch of the lease, the checkpoint
//! and the claims of deliveries in that same step, so what was to be written twice is not written at all.

mod append;
mod commit;
mod effects;
mod error;
mod locks;
mod read_set;
mod tables;
mod write_set;

use std::{any::Any, fmt};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position,
    port::{FromTransaction, Lease, Shadow, Transaction},
};

pub(crate) use commit::Program;
pub(crate) use effects::{Effect, Undo, to_bytes};
pub use error::RedisTransactionError;
pub(crate) use tables::{Table, parse_tables, scan_pattern};

use super::RedisEventStore;
use crate::script::store::{LOCK_CHECKPOINT, LOCK_DELIVERY};
use append::PlannedAppend;
use locks::TransactionLocks;
use read_set::TrackedRead;
use write_set::WriteSet;

/// An open transaction of a [`RedisEventStore`]: what handlers and projections take by `&mut`, or
/// [`begin_transaction`](RedisEventStore::begin_transaction) begins.
///
/// What is written in it, and the checkpoint or the note that the event was handled, is written by one script, all of it
/// or nothing. A crash neither repeats nor loses it, as long as Redis keeps what it acknowledged.
///
/// # Keys
/// Keys are called without the [`key_prefix`](crate::RedisEventStoreConfig::key_prefix), which is put before them: all
/// that belongs to a store begins with it. Without one `stats:orders` is `stats:orders`. Keys that begin with
/// `aggregate:`, `projection:`, `checkpoint:` or `eventstore:` are the store's own, and refused.
///
/// While a projection is rebuilt, the keys that its `tables(..)` name mean their copies, and no others may be written.
/// A table is a key, or all keys that begin alike, as `order:*`. The copies take the place of the keys in the step that
/// moves the checkpoint; keys of such a table that the rebuild did not write are removed in it.
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
    store: RedisEventStore,
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

/// A checkpoint on its way.
#[derive(Debug)]
struct CheckpointMove {
    lease: Lease,
    from: Position,
    to: Position,
}

/// Copies that take the place of keys.
#[derive(Debug)]
pub(crate) struct ShadowSwap {
    pub(crate) shadow: Name,
    pub(crate) position: Position,
    /// Each copy and the key that it replaces; where there is no copy, there will be no key.
    pub(crate) swaps: Vec<(String, String)>,
    /// Keys that the copies have not.
    pub(crate) removed_keys: Vec<String>,
}

impl RedisEventStore {
    /// Begins a transaction of the caller's own, outside of handlers and projections. Dropped, it writes nothing.
    ///
    /// [`append_in`](Self::append_in) appends events in it.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(store: eventbus_redis::RedisEventStore) -> eventbus::Result<()> {
    /// let mut tx = store.begin_transaction();
    /// let stock: Option<u64> = tx.hget("stock", "book").await?;
    /// if stock.is_some_and(|stock| stock > 0) {
    ///     tx.hincrby("stock", "book", -1)?;
    ///     tx.sadd("sold", "book")?;
    /// }
    /// tx.commit().await?; // fails if somebody changed the stock meanwhile
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn begin_transaction(&self) -> RedisTransaction {
        RedisTransaction::new(self, None)
    }
}

impl RedisTransaction {
    pub(crate) fn new(store: &RedisEventStore, shadow: Option<Shadow>) -> Self {
        Self {
            store: store.clone(),
            shadow,
            locks: TransactionLocks::new(store.clone()),
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
        let keys = self.store.keys();
        let (checkpoint, kind) = match &self.shadow {
            Some(shadow) if shadow.name != lease.role => return Ok(false),
            Some(shadow) => (keys.shadow(&shadow.name), "hash"),
            None => (keys.checkpoint(&lease.role), "text"),
        };
        // a former owner is fenced: nobody waits for it
        let claim = keys.transaction_lock("checkpoint", &format!("{}:{}", lease.epoch, lease.role));
        let mut script = LOCK_CHECKPOINT.prepare_invoke();
        script.key(keys.lease(&lease.role)).key(checkpoint).key(&claim);
        script.arg(lease.owner.as_str()).arg(lease.epoch).arg(from.get());
        script.arg(self.locks.token()).arg(self.locks.ttl_ms()).arg(kind);
        let may = self.locks.acquire(claim, &script).await?;
        if may {
            self.checkpoint_moves.push(CheckpointMove { lease: lease.clone(), from, to });
        }
        Ok(may)
    }

    async fn is_first(&mut self, handler: &Name, event: EventId) -> Result<bool, BoxError> {
        self.ensure_not_in_shadow("is_first")?;
        // names have no control characters
        let note = [handler.as_bytes(), &[0], event.as_uuid().as_bytes()].concat();
        if self.handled_deliveries.contains(&note) {
            return Ok(false);
        }
        let keys = self.store.keys();
        let claim = keys.transaction_lock("delivery", &format!("{event}:{handler}"));
        let mut script = LOCK_DELIVERY.prepare_invoke();
        script.key(keys.deliveries()).key(&claim);
        script.arg(&note).arg(self.locks.token()).arg(self.locks.ttl_ms());
        let is_first = self.locks.acquire(claim, &script).await?;
        if is_first {
            self.handled_deliveries.push(note);
        }
        Ok(is_first)
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        self.ensure_not_in_shadow("replace_rows")?;
        let replacing = self.store.plan_shadow_swap(shadow).await?;
        let position = replacing.position;
        self.shadow_swaps.push(replacing);
        Ok(position)
    }

    /// A key that is not there is an empty table.
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
            .field("store", &self.store)
            .field("effects", &self.effects.len())
            .finish_non_exhaustive()
    }
}
