//! The progress of handlers.
//!
//! A save commits as every write of the store does, and so is synced unless
//! [`Synchronous::Normal`](crate::Synchronous::Normal) is set. A save that a power failure loses would only repeat events,
//! but without a sync these could be the events of half a minute, such as the mails that were sent in it; and a save
//! mostly shares the commit of an append.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    EventId, Name, Position,
    port::{
        HandlerProgress,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, HandlerProgressError, Heartbeat, ListedHandler,
            Member, MemberGuard, NotedHandler, Saved, ShardId, ShardSave,
        },
    },
};

use crate::{blocking::blocking, handler_table::HandlerTable, query::QueryError, store::SqliteEventStore};

/// The number of statements from which on a change runs on a thread that may block.
const INLINE_STATEMENTS_MAX: usize = 64;

async fn read_handlers<T: Send + 'static>(
    store: &SqliteEventStore,
    read: impl FnOnce(&HandlerTable<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, HandlerProgressError> {
    let locks = Arc::clone(store.inner().member_locks());
    let found = store
        .readers()
        .read(move |connection| read(&HandlerTable { connection, locks: &locks }).map_err(QueryError::from));
    found.await.map_err(HandlerProgressError::new)
}

/// Makes a change of about so many statements.
async fn change_handlers<T: Send + 'static>(
    store: &SqliteEventStore,
    statements: usize,
    mut change: impl FnMut(&HandlerTable<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, HandlerProgressError> {
    let locks = Arc::clone(store.inner().member_locks());
    let change = move |connection: &_| change(&HandlerTable { connection, locks: &locks });
    let changed = match statements > INLINE_STATEMENTS_MAX {
        true => store.writer().write_large(change).await,
        false => store.writer().write(change).await,
    };
    changed.map_err(HandlerProgressError::new)
}

#[async_trait]
impl HandlerProgress for SqliteEventStore {
    fn lease_ends_with_process(&self) -> bool {
        true
    }

    async fn declare_handlers(
        &self,
        declared: &[DeclaredHandler],
        head: Position,
    ) -> Result<Vec<NotedHandler>, HandlerProgressError> {
        let declared = declared.to_vec();
        let shards = declared.iter().map(|declared| usize::from(declared.shards)).sum();
        change_handlers(self, shards, move |table| {
            declared.iter().map(|declared| table.declare(declared, head)).collect()
        })
        .await
    }

    async fn join(&self, member: &Member) -> Result<MemberGuard, HandlerProgressError> {
        let (member, locks) = (member.clone(), Arc::clone(self.inner().member_locks()));
        let locked = blocking(move || locks.lock()).await.map_err(HandlerProgressError::new)?;
        let (lock_id, guard) = locked.map_err(HandlerProgressError::new)?;
        change_handlers(self, 1, move |table| table.join(&member, &lock_id)).await?;
        Ok(guard)
    }

    async fn leave(&self, member: &Name) -> Result<(), HandlerProgressError> {
        let member = member.clone();
        change_handlers(self, 1, move |table| table.leave(&member)).await
    }

    async fn members(&self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError> {
        let names = names.to_vec();
        read_handlers(self, move |table| names.iter().filter_map(|name| table.member(name).transpose()).collect()).await
    }

    async fn heartbeat(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        _renew_for: Option<Duration>,
        _live_for: Duration,
    ) -> Result<Heartbeat, HandlerProgressError> {
        let (member, handlers) = (member.clone(), handlers.iter().cloned().collect());
        let owned = owned.iter().cloned().collect();
        read_handlers(self, move |table| table.heartbeat(&member, &handlers, &owned)).await
    }

    async fn acquire_shards(
        &self,
        member: &Name,
        wanted: &[ShardId],
        _ttl: Duration,
    ) -> Result<Vec<AcquiredShard>, HandlerProgressError> {
        let (member, wanted) = (member.clone(), wanted.to_vec());
        change_handlers(self, 2 * wanted.len(), move |table| table.acquire(&member, &wanted)).await
    }

    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError> {
        let shards: BTreeSet<_> = shards.iter().cloned().collect();
        read_handlers(self, move |table| {
            let mut rows: BTreeMap<ShardId, Vec<DeliveryRow>> = BTreeMap::new();
            let handlers: BTreeSet<_> = shards.iter().map(|shard| &shard.handler).collect();
            for handler in handlers {
                for (shard, row) in table.live_rows(handler)?.into_iter().filter(|(shard, _)| shards.contains(shard)) {
                    rows.entry(shard).or_default().push(row);
                }
            }
            Ok(rows)
        })
        .await
    }

    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError> {
        let (member, saves) = (member.clone(), saves.to_vec());
        let statements = saves.iter().map(|save| 1 + save.rows.len() + save.finished.len()).sum();
        change_handlers(self, statements, move |table| table.save(&member, last_read, &saves)).await
    }

    async fn list_handlers(&self) -> Result<Vec<ListedHandler>, HandlerProgressError> {
        read_handlers(self, |table| table.list()).await
    }

    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>, HandlerProgressError> {
        let (after, limit) = (after.cloned(), i64::try_from(limit).unwrap_or(i64::MAX));
        read_handlers(self, move |table| table.dead_rows(after.as_ref(), limit)).await
    }

    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>, HandlerProgressError> {
        let handler = handler.clone();
        read_handlers(self, move |table| table.dead_row(&handler, position)).await
    }

    async fn count_dead_rows(&self, at_most: u64) -> Result<u64, HandlerProgressError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        read_handlers(self, move |table| table.count_dead(at_most)).await
    }

    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let handler = handler.clone();
        change_handlers(self, 2, move |table| table.replay_dead(&handler, position)).await
    }

    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let handler = handler.clone();
        change_handlers(self, 2, move |table| table.discard_dead(&handler, position)).await
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError> {
        let group = group.clone();
        change_handlers(self, 1, move |table| table.set_paused(&group, is_paused)).await
    }

    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool, HandlerProgressError> {
        let name = name.clone();
        change_handlers(self, 3, move |table| table.create(&name, after)).await
    }

    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>, HandlerProgressError> {
        let name = name.clone();
        change_handlers(self, 5, move |table| table.retire(&name)).await
    }
}
