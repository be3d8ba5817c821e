//! The open transaction that handlers and projections write in.
//!
//! Invariant: apart from the keys of its locks, a transaction writes only in its commit, which is one script. The
//! script compares the epoch of the lease, the checkpoint and the records of handled events in the same step, so it
//! refuses to write an effect a second time; it also compares the values read and the expected versions of appends.
//! Locks only save work that the script would refuse.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, Position, RecordedEvent, StreamId,
    event::UniqueChange,
    port::{Append, AppendError, Lease, Shadow, Transaction},
    store::{BoundaryCondition, HandledCommand, HandledDelivery},
    support::{StreamAttempt, unique_changes},
};
use eventbus_redis_core::{
    program::{AtomicProgram, Effect, Undo, to_bytes},
    reply,
};

use redis::{FromRedisValue, ToSingleRedisArg, Value};
use uuid::Uuid;

use crate::{
    RedisTransactionError,
    append::check_append,
    commit::{
        self, CheckpointMoves, EffectList, HandledDeliveries, PlannedAppends, PlannedValues, PredictedValue, ReadSet,
        ShadowSwap, Table, TransactionLocks, WriteSet, command, key_to_write, parse_number, plan_shadow_swap,
        refused_error, tags,
    },
    inner::StoreInner,
};

/// Most arguments of one command: a script can pass on only some thousand.
const COMMAND_ARGUMENTS_MAX: usize = 1_000;

// States of a transaction:
//
// | state | event | next state |
// |---|---|---|
// | unlocked, locked | read, effect, append | same state: the transaction collects them |
// | unlocked, locked | `advance` or `is_first`, the script replies `ok` | locked: a task renews the locks |
// | unlocked, locked | `advance` or `is_first`, the script replies `busy` | same state: polls until the lock is free |
// | unlocked, locked | `advance` or `is_first`, the script replies `lost` | same state: the caller gets `false` |
// | unlocked | `transaction_timeout` passes since the first `advance` or `is_first`, which polls | timed out |
// | locked | `transaction_timeout` passes since the first `advance` or `is_first` | timed out: the locks expire |
// | timed out | read, effect, append | same state |
// | timed out | `advance` or `is_first` | same state, replies as above; no task renews the locks |
// | locked | a lock expired without a renewal, a second transaction holds it; `commit` | ended: `TimedOut`, no write |
// | unlocked, locked | `commit`, all checks of the script hold | committed: the script has released the locks |
// | unlocked, locked | `commit`, a check fails or an effect is refused | ended: no write; `Drop` releases the locks |
// | unlocked, locked | `commit`, the connection breaks | outcome unknown: `Drop` releases locks that are left |
// | timed out | `commit` | ended: `TimedOut`, no write |
// | unlocked, locked, timed out | dropped | ended: no write; `Drop` releases the locks |

/// An open transaction of a [`RedisEventStore`](crate::RedisEventStore): handlers and projections take it by `&mut`,
/// and [`begin_transaction`](crate::RedisEventStore::begin_transaction) begins one.
///
/// One script writes the effects, and the checkpoint or the note that the event was handled: all of them or none. A
/// crash neither repeats nor loses them, as long as Redis keeps what it acknowledged. If its log says
/// `Truncating the AOF` after a crash, have it rewrite the file (`BGREWRITEAOF`): the next restart may otherwise run a
/// part of the last transaction.
///
/// # Keys
/// Give keys without the [`key_prefix`](crate::RedisEventStoreConfig::key_prefix); the store puts it before them, as
/// before all its keys. With an empty prefix, `stats:orders` stays `stats:orders`. Keys that begin with `aggregate:`,
/// `tenant:`, `projection:`, `checkpoint:` or `eventstore:` are the store's own, and refused.
///
/// In a rebuild of a projection, a key of its `tables(..)` refers to the copy of that key, and the transaction can
/// write no other keys. A table is a key, or all keys with one prefix, such as `order:*`. The step that moves the
/// checkpoint renames the copies over the keys, and removes keys of such a table that the rebuild did not write.
///
/// # Examples
/// ```
/// use eventbus::prelude::*;
/// use eventstore_redis::{RedisTransaction, RedisTransactionError};
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
#[derive(derive_more::Debug)]
#[debug("RedisTransaction({inner:?})")]
pub struct RedisTransaction {
    inner: Arc<StoreInner>,
    shadow: Option<Shadow>,
    locks: TransactionLocks,
    effects: EffectList,
    read_set: ReadSet,
    write_set: WriteSet,
    deliveries: HandledDeliveries,
    checkpoint_moves: CheckpointMoves,
    shadow_swaps: Vec<ShadowSwap>,
    appends: PlannedAppends,
    values: PlannedValues,
    command: Option<HandledCommand>,
    condition: Option<BoundaryCondition>,
}

/// # Writes
/// The transaction sends its writes with the commit. If the server refuses one of them, for example `HINCRBY` on a
/// text, the whole commit fails.
///
/// The methods fail at once only if the key is not allowed: it is empty, longer than 1,024 bytes, the store's own, or,
/// in a rebuild, in none of the projection's `tables(..)`.
///
/// # Reads
/// Reads return committed values, with this transaction's own writes applied. If a concurrent writer changes a value
/// that was read, the commit fails with [`RedisTransactionError::Changed`], and a handler or projection runs again.
impl RedisTransaction {
    pub(crate) fn new(inner: &Arc<StoreInner>, shadow: Option<Shadow>) -> Self {
        Self {
            inner: inner.clone(),
            shadow,
            locks: TransactionLocks::new(inner.clone()),
            effects: EffectList::default(),
            read_set: ReadSet::default(),
            write_set: WriteSet::default(),
            deliveries: HandledDeliveries::default(),
            checkpoint_moves: CheckpointMoves::default(),
            shadow_swaps: Vec::new(),
            appends: PlannedAppends::default(),
            values: PlannedValues::default(),
            command: None,
            condition: None,
        }
    }

    /// Adds to a number in a field of a hash; a missing one counts as 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hincrby(&mut self, key: &str, field: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBY", vec![field.into(), to_bytes(by)])?;
        self.write_set.add_to_field(key, field.as_bytes(), by);
        Ok(())
    }

    /// Adds to a number with a fraction in a field of a hash; a missing one counts as 0. The server calculates: sums of
    /// many such numbers are not exact, so count money in its smallest unit.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hincrbyfloat(&mut self, key: &str, field: &str, by: f64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HINCRBYFLOAT", vec![field.into(), to_bytes(by)])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Unknown);
        Ok(())
    }

    /// Sets a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hset(&mut self, key: &str, field: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Field, "HSET", vec![field.into(), value.clone()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Removes a field of a hash.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn hdel(&mut self, key: &str, field: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Field, "HDEL", vec![field.into()])?;
        self.write_set.set_field(key, field.as_bytes(), PredictedValue::Exactly(None));
        Ok(())
    }

    /// Sets a key to a text, and replaces a value of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn set(&mut self, key: &str, value: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        let value = to_bytes(value);
        self.push_effect(key, Undo::Key, "SET", vec![value.clone()])?;
        self.write_set.set_value(key, PredictedValue::Exactly(Some(value)));
        Ok(())
    }

    /// Adds to a number in a text; a missing one counts as 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn incrby(&mut self, key: &str, by: i64) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Key, "INCRBY", vec![to_bytes(by)])?;
        self.write_set.add_to_value(key, by);
        Ok(())
    }

    /// Removes a key of any kind.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn del(&mut self, key: &str) -> Result<(), RedisTransactionError> {
        self.push_effect(key, Undo::Drop, "DEL", Vec::new())?;
        self.write_set.set_value(key, PredictedValue::Exactly(None));
        Ok(())
    }

    /// Adds a member to a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn sadd(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SADD", vec![to_bytes(member)])
    }

    /// Removes a member from a set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn srem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Member, "SREM", vec![to_bytes(member)])
    }

    /// Gives a member of a sorted set its score.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zadd(&mut self, key: &str, member: impl ToSingleRedisArg, score: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZADD", vec![to_bytes(score), to_bytes(member)])
    }

    /// Adds to the score of a member of a sorted set; a missing one counts as 0.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zincrby(&mut self, key: &str, member: impl ToSingleRedisArg, by: f64) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZINCRBY", vec![to_bytes(by), to_bytes(member)])
    }

    /// Removes a member from a sorted set.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed.
    pub fn zrem(&mut self, key: &str, member: impl ToSingleRedisArg) -> Result<(), RedisTransactionError> {
        self.push_blind_write(key, Undo::Score, "ZREM", vec![to_bytes(member)])
    }

    /// Adds any other command that writes to one key, its first argument: `command("RPUSH", "log", ["a"])`.
    ///
    /// The commit first copies the key, to be able to undo the command. A large key takes long to copy: use this for
    /// small keys. The commit fails with [`RedisTransactionError::InvalidCommand`] if the command is not of that form.
    ///
    /// # Errors
    /// [`RedisTransactionError`] if the key is not allowed, or there are more than 1,000 arguments.
    pub fn command<A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(), RedisTransactionError> {
        let name = name.to_ascii_uppercase();
        let args: Vec<_> = arguments.into_iter().map(to_bytes).collect();
        if args.len() > COMMAND_ARGUMENTS_MAX {
            let reason = "it has more than 1,000 arguments";
            return Err(RedisTransactionError::InvalidCommand { command: name, reason });
        }
        self.push_effect(key, Undo::Key, &name, args)?;
        self.effects.require_check(name);
        self.write_set.set_value(key, PredictedValue::Unknown);
        Ok(())
    }

    fn push_blind_write(
        &mut self,
        key: &str,
        undo: Undo,
        name: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<(), RedisTransactionError> {
        self.push_effect(key, undo, name, args)?;
        self.write_set.set_value(key, PredictedValue::Unknown);
        Ok(())
    }

    fn push_effect(
        &mut self,
        key: &str,
        undo: Undo,
        name: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<(), RedisTransactionError> {
        let stored_key = key_to_write(self.inner.keys(), self.shadow.as_ref(), key)?;
        self.effects.push(stored_key, Effect { key: key.into(), undo, command: name.into(), args });
        Ok(())
    }

    /// Returns the text of a key.
    ///
    /// # Errors
    /// [`RedisTransactionError::ReadAfterBlindWrite`] if this transaction wrote it by a command whose result only the
    /// server knows; [`EffectRefused`](RedisTransactionError::EffectRefused) if it is of a different kind, or not a
    /// `T`.
    pub async fn get<T: FromRedisValue>(&mut self, key: &str) -> Result<Option<T>, RedisTransactionError> {
        let known = self.write_set.predicted_value(key);
        self.read_through_write_set("GET", key, Vec::new(), known).await
    }

    /// Returns a field of a hash.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn hget<T: FromRedisValue>(
        &mut self,
        key: &str,
        field: &str,
    ) -> Result<Option<T>, RedisTransactionError> {
        let known = self.write_set.predicted_field(key, field.as_bytes());
        self.read_through_write_set("HGET", key, vec![field.into()], known).await
    }

    /// Returns the reply of a command that reads one key, its first argument: `query("ZSCORE", "ranks", ["a"])`.
    ///
    /// # Errors
    /// [`RedisTransactionError::ReadAfterBlindWrite`] if this transaction has written the key;
    /// [`EffectRefused`](RedisTransactionError::EffectRefused) if the server refuses the command, for example because
    /// it writes.
    pub async fn query<T: FromRedisValue, A: ToSingleRedisArg>(
        &mut self,
        name: &str,
        key: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<T, RedisTransactionError> {
        if self.write_set.contains(key) {
            return Err(RedisTransactionError::ReadAfterBlindWrite { key: key.into() });
        }
        let args = arguments.into_iter().flat_map(|argument| argument.to_redis_args()).collect();
        let reply = self.read_tracked(name, key, args).await?;
        reply::parse_value(reply).map_err(|error| refused_error(name, key, error))
    }

    async fn read_through_write_set<T: FromRedisValue>(
        &mut self,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
        predicted: Option<PredictedValue>,
    ) -> Result<Option<T>, RedisTransactionError> {
        let value = match predicted {
            Some(PredictedValue::Unknown) => {
                return Err(RedisTransactionError::ReadAfterBlindWrite { key: key.into() });
            }
            Some(PredictedValue::Exactly(value)) => value.map_or(Value::Nil, Value::BulkString),
            None => self.read_tracked(name, key, args).await?,
            Some(PredictedValue::CurrentPlus(by)) => {
                let before: Option<Vec<u8>> = reply::parse_value(self.read_tracked(name, key, args).await?)
                    .map_err(|error| refused_error(name, key, error))?;
                let sum = parse_number(before.as_deref()).and_then(|before| before.checked_add(by));
                let sum = sum.ok_or_else(|| RedisTransactionError::ReadAfterBlindWrite { key: key.into() })?;
                Value::BulkString(sum.to_string().into_bytes())
            }
        };
        reply::parse_value(value).map_err(|error| refused_error(name, key, error))
    }

    async fn read_tracked(
        &mut self,
        name: &str,
        key: &str,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, RedisTransactionError> {
        self.read_set.read(&self.inner, self.shadow.as_ref(), name, key, args).await
    }

    /// Commits a transaction of [`begin_transaction`](crate::RedisEventStore::begin_transaction). The runtime commits
    /// the transactions of handlers and projections itself.
    ///
    /// # Errors
    /// [`RedisTransactionError`]: the transaction is not committed. Only after
    /// [`OutcomeUnknown`](RedisTransactionError::OutcomeUnknown) it may be.
    pub async fn commit(self) -> Result<(), RedisTransactionError> {
        self.commit_at().await.map(drop)
    }

    /// Commits, and returns the position of the last event of the store if it appended or checked streams.
    pub(crate) async fn commit_at(mut self) -> Result<Option<u64>, RedisTransactionError> {
        self.effects.check_commands(&self.inner).await?;
        let program = self.program();
        if program.is_empty() {
            return Ok(None);
        }
        if self.locks.is_timed_out() {
            return Err(commit::timed_out_error(&self.inner));
        }
        let last = commit::run(&self.inner, &program).await?;
        self.locks.clear();
        self.appends.record(&self.inner, &last);
        Ok(last.parse().ok())
    }

    /// Plans the note of a delivery; returns `false` if it is noted already.
    pub(crate) async fn note_delivery(&mut self, delivery: &HandledDelivery) -> Result<bool, RedisTransactionError> {
        let HandledDelivery { handler, stream, event_id } = delivery;
        self.deliveries.note(&self.inner, &mut self.locks, handler, stream, *event_id).await
    }

    /// Plans the note of a command.
    pub(crate) fn note_command(&mut self, command: HandledCommand) {
        self.command = Some(command);
    }

    /// Plans the check that no event was added to a boundary; if one was, the commit fails with
    /// [`RedisTransactionError::Changed`] and a key of the counts.
    pub(crate) fn require(&mut self, condition: BoundaryCondition) {
        self.condition = Some(condition);
    }

    /// Plans one of several appends; for an append without events, plans the check of its stream.
    pub(crate) async fn try_append(&mut self, append: Append) -> Result<StreamAttempt, AppendError> {
        check_append(&append)?;
        let (events, is_new) = self.plan(append).await?;
        Ok(if is_new { StreamAttempt::Now(events) } else { StreamAttempt::Before(events) })
    }

    /// Builds the program of the commit. Order: all checks; then the writes that may fail, which the script can undo;
    /// then those that cannot fail.
    fn program(&self) -> AtomicProgram {
        let (keys, shadow) = (self.inner.keys(), self.shadow.as_ref());
        let mut program = AtomicProgram::default();
        self.checkpoint_moves.add_checks(keys, shadow, &mut program);
        self.locks.add_checks(&mut program);
        self.deliveries.add_checks(keys, &mut program);
        self.command.iter().for_each(|noted| command::add_check(noted, keys, &mut program));
        self.read_set.add_checks(&mut program);
        self.appends.add_checks(&self.inner, &mut program);
        // after the streams, whose conflict comes first, and before the values
        self.condition.iter().for_each(|condition| tags::add_check(condition, keys, &mut program));
        self.values.add_checks(&mut program);
        self.shadow_swaps.iter().for_each(|swap| swap.add_check(keys, &mut program));
        if let Some(shadow) = shadow {
            self.effects.add_names(keys, &shadow.name, &mut program);
        }
        self.effects.add_writes(keys, self.locks.token(), &mut program);
        self.appends.add_writes(keys, &mut program);
        self.shadow_swaps.iter().for_each(|swap| swap.add_writes(keys, &mut program));
        self.checkpoint_moves.add_writes(keys, shadow, &mut program);
        self.deliveries.add_writes(keys, &mut program);
        self.command.iter().for_each(|noted| command::add_write(noted, keys, &mut program));
        self.values.add_writes(&mut program);
        self.locks.add_releases(&mut program);
        program
    }

    /// Plans an append in the store of this id.
    pub(crate) async fn append(&mut self, store_id: Uuid, append: Append) -> Result<Vec<RecordedEvent>, AppendError> {
        if !check_append(&append)? {
            return Ok(Vec::new());
        }
        let refused = |source: RedisTransactionError| AppendError::Refused {
            stream: append.stream.clone(),
            source: source.into(),
        };
        // by id: two connections to one store are the same store
        if self.inner.id() != store_id {
            return Err(refused(RedisTransactionError::OtherStore));
        }
        self.ensure_not_in_shadow("append_in").map_err(refused)?;
        Ok(self.plan(append).await?.0)
    }

    /// Plans an append and its changes of unique values; see [`PlannedAppends::try_plan`].
    async fn plan(&mut self, append: Append) -> Result<(Vec<RecordedEvent>, bool), AppendError> {
        let (stream, changes) = (append.stream.clone(), unique_changes(&append.events));
        let before = self.appends.len();
        let (events, is_new) = self.appends.try_plan(&self.inner, append).await?;
        // an append that this transaction has planned before has changed its values
        if self.appends.len() == before || changes.is_empty() {
            return Ok((events, is_new));
        }
        let former = self.values.fields();
        let planned = self.values.plan(&self.inner, &stream, &changes).await;
        match planned.map_err(|error| AppendError::Unavailable(error.into())) {
            Ok(Ok(())) => Ok((events, is_new)),
            Ok(Err(error)) | Err(error) => {
                self.appends.truncate(before);
                self.values.restore(former);
                Err(error)
            }
        }
    }

    /// Plans to give back the values that the stream holds in the scopes of the changes, so that another append can
    /// take them.
    pub(crate) async fn give_back_values(
        &mut self,
        stream: &StreamId,
        changes: &[UniqueChange],
    ) -> Result<(), AppendError> {
        let planned = self.values.give_back(&self.inner, stream, changes).await;
        planned.map_err(|error| AppendError::Unavailable(error.into()))
    }

    /// Plans changes of unique values of a stream, without events.
    pub(crate) async fn assign(&mut self, stream: &StreamId, changes: &[UniqueChange]) -> Result<(), AppendError> {
        let planned = self.values.plan(&self.inner, stream, changes).await;
        planned.map_err(|error| AppendError::Unavailable(error.into()))?
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
        let shadow = self.shadow.as_ref();
        Ok(self.checkpoint_moves.advance(&self.inner, shadow, &mut self.locks, lease, (from, to)).await?)
    }

    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError> {
        self.ensure_not_in_shadow("is_first")?;
        Ok(self.deliveries.note(&self.inner, &mut self.locks, handler, stream, event).await?)
    }

    async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        Self::append(self, self.inner.id(), append).await.map(drop)
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
