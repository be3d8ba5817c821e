//! The progress of handlers in the store in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    handler_table::{ShardRow, dead_order},
    store::InMemoryEventStore,
};
use crate::{
    domain::{metadata::EventId, name::Name, stream::Position},
    port::{
        HandlerProgress, ReadFeed as _,
        attempts::DeliveryAttempts,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, HandlerProgressError, Heartbeat, ListedHandler,
            Member, MemberGuard, NotedHandler, Saved, ShardId, ShardSave,
        },
    },
};

#[async_trait]
impl HandlerProgress for InMemoryEventStore {
    fn lease_ends_with_process(&self) -> bool {
        true
    }

    async fn declare_handlers(
        &self,
        declared: &[DeclaredHandler],
        head: Position,
    ) -> Result<Vec<NotedHandler>, HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        Ok(declared.iter().map(|declared| handlers.declare(declared, head)).collect())
    }

    async fn join(&self, member: &Member) -> Result<MemberGuard, HandlerProgressError> {
        let guard = Arc::new(());
        let mut handlers = self.handlers().lock();
        handlers.members.retain(|_, (_, guard)| guard.strong_count() > 0);
        handlers.members.insert(member.name.clone(), (member.clone(), Arc::downgrade(&guard)));
        Ok(Box::new(guard))
    }

    async fn leave(&self, member: &Name) -> Result<(), HandlerProgressError> {
        self.handlers().lock().members.remove(member);
        self.appended().notify_left();
        Ok(())
    }

    async fn members(&self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError> {
        let handlers = self.handlers().lock();
        Ok(names.iter().filter_map(|name| handlers.members.get(name)).map(|(member, _)| member.clone()).collect())
    }

    async fn heartbeat(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        _renew_for: Option<Duration>,
        _live_for: Duration,
    ) -> Result<Heartbeat, HandlerProgressError> {
        let mut table = self.handlers().lock();
        let held = owned.iter().filter_map(|(shard, epoch)| {
            let changes = table.owned(member, shard, *epoch)?.changes;
            Some((shard.clone(), changes))
        });
        let held: BTreeMap<_, _> = held.collect();
        let is_free = |(shard, row): &(&ShardId, &ShardRow)| {
            handlers.contains(&shard.handler) && !held.contains_key(shard) && table.is_free_for(member, row)
        };
        let free = table.shards.iter().filter(is_free).map(|(shard, _)| shard.clone()).collect();
        let members = table.members.keys().filter(|name| table.is_live(name)).cloned().collect();
        Ok(Heartbeat { held, free, members, paused: table.paused.clone() })
    }

    async fn acquire_shards(
        &self,
        member: &Name,
        wanted: &[ShardId],
        _ttl: Duration,
    ) -> Result<Vec<AcquiredShard>, HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        Ok(wanted.iter().filter_map(|shard| handlers.acquire(member, shard)).collect())
    }

    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError> {
        let handlers = self.handlers().lock();
        let mut live: BTreeMap<ShardId, Vec<DeliveryRow>> = BTreeMap::new();
        for ((handler, _), (number, row)) in &handlers.rows {
            let shard = ShardId { handler: handler.clone(), number: *number };
            if shards.contains(&shard) && (row.dead_since.is_none() || row.is_held) {
                live.entry(shard).or_default().push(row.clone());
            }
        }
        Ok(live)
    }

    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        if last_read.is_some_and(|(position, event_id)| !self.has_event(position, event_id)) {
            return Ok(Saved::WentBack);
        }
        let held = saves.iter().filter(|save| handlers.save(member, save)).map(|save| save.shard.clone());
        Ok(Saved::Held(held.collect()))
    }

    async fn list_handlers(&self) -> Result<Vec<ListedHandler>, HandlerProgressError> {
        let handlers = self.handlers().lock();
        Ok(handlers.noted.values().map(|noted| handlers.list(noted)).collect())
    }

    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>, HandlerProgressError> {
        let mut dead = self.handlers().lock().dead();
        dead.retain(|dead| after.is_none_or(|after| dead_order(dead) > dead_order(after)));
        dead.truncate(limit);
        Ok(dead)
    }

    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>, HandlerProgressError> {
        let dead = self.handlers().lock().dead();
        Ok(dead.into_iter().find(|dead| dead.handler == *handler && dead.position == position))
    }

    async fn count_dead_rows(&self, at_most: u64) -> Result<u64, HandlerProgressError> {
        Ok((self.handlers().lock().dead().len() as u64).min(at_most))
    }

    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let attempts = DeliveryAttempts::default();
        let row = DeliveryRow { position, attempts, dead_since: None, is_held: false };
        Ok(self.handlers().lock().end_dead(handler, position, Some(row)))
    }

    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        Ok(self.handlers().lock().end_dead(handler, position, None))
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        match is_paused {
            true => drop(handlers.paused.insert(group.clone())),
            false => drop(handlers.paused.remove(group)),
        }
        Ok(())
    }

    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool, HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        let is_new = !handlers.noted.contains_key(name);
        if is_new {
            handlers.add(NotedHandler::created(name.clone(), name.clone(), after));
        }
        Ok(is_new)
    }

    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>, HandlerProgressError> {
        let mut handlers = self.handlers().lock();
        let shards = handlers.shards.iter().filter(|(shard, _)| shard.handler == *name);
        let is_owned = shards.map(|(_, row)| row).any(|row| !handlers.is_free(row));
        if is_owned || handlers.noted.remove(name).is_none() {
            return Ok(None);
        }
        let is_waiting = |((handler, _), (_, row)): &(&(Name, Position), &(u16, DeliveryRow))| {
            handler == name && row.dead_since.is_none()
        };
        let waited = handlers.rows.iter().filter(is_waiting).count() as u64;
        handlers.rows.retain(|(handler, _), _| handler != name);
        handlers.shards.retain(|shard, _| shard.handler != *name);
        Ok(Some(waited))
    }
}
