//! The progress of handlers in the store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::InMemoryEventStore;
use crate::{
    domain::{metadata::EventId, name::Name, stream::Position},
    port::{
        HandlerProgress,
        attempts::DeliveryAttempts,
        handler_progress::{
            AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, HandlerProgressError, ListedHandler, ListedShard,
            Looked, Member, MemberGuard, NotedHandler, Saved, ShardId, ShardSave,
        },
    },
};

/// The progress of all handlers of a store.
///
/// A member is live while its guard is, so that a lease ends with its process, here with its app.
#[derive(Debug, Default)]
pub(super) struct HandlerTable(Mutex<Handlers>);

#[derive(Debug, Default)]
struct Handlers {
    noted: BTreeMap<Name, NotedHandler>,
    shards: BTreeMap<ShardId, ShardRow>,
    /// By handler and position.
    rows: BTreeMap<(Name, Position), (u16, DeliveryRow)>,
    members: BTreeMap<Name, (Member, Weak<()>)>,
    paused: BTreeSet<Name>,
}

#[derive(Debug, Default)]
struct ShardRow {
    owner: Option<Name>,
    epoch: u64,
    unclean: u32,
    changes: u64,
    checkpoint: Position,
    waiting: Vec<Position>,
    started: Vec<Position>,
    left: BTreeMap<Name, Position>,
}

impl Handlers {
    fn is_live(&self, member: &Name) -> bool {
        self.members.get(member).is_some_and(|(_, guard)| guard.strong_count() > 0)
    }

    fn is_free(&self, row: &ShardRow) -> bool {
        row.owner.as_ref().is_none_or(|owner| !self.is_live(owner))
    }

    fn is_free_for(&self, member: &Name, row: &ShardRow) -> bool {
        row.owner.as_ref() == Some(member) || self.is_free(row)
    }

    fn declare(&mut self, declared: &DeclaredHandler, head: Position) -> (NotedHandler, bool) {
        let Some(noted) = self.noted.get_mut(&declared.name) else {
            let noted = NotedHandler::new(declared, head);
            self.add(noted.clone());
            return (noted, true);
        };
        let (new, noted) = (noted.declare(declared, head), noted.clone());
        for (_, row) in self.shards.iter_mut().filter(|(shard, _)| shard.handler == declared.name) {
            row.left.extend(new.clone());
        }
        (noted, false)
    }

    fn add(&mut self, noted: NotedHandler) {
        for number in 0..noted.shards {
            let row = ShardRow { checkpoint: noted.first_checkpoint(), ..ShardRow::default() };
            self.shards.insert(ShardId { handler: noted.name.clone(), number }, row);
        }
        self.noted.insert(noted.name.clone(), noted);
    }

    /// Returns the shard that this member owns in this epoch.
    fn owned(&mut self, member: &Name, shard: &ShardId, epoch: u64) -> Option<&mut ShardRow> {
        let row = self.shards.get_mut(shard)?;
        (row.epoch == epoch && row.owner.as_ref() == Some(member)).then_some(row)
    }

    fn acquire(&mut self, member: &Name, shard: &ShardId) -> Option<AcquiredShard> {
        if !self.shards.get(shard).is_some_and(|row| self.is_free_for(member, row)) {
            return None;
        }
        let row = self.shards.get_mut(shard)?;
        let has_crashed = row.owner.replace(member.clone()).is_some_and(|former| former != *member);
        row.epoch += 1;
        row.unclean += u32::from(has_crashed);
        Some(AcquiredShard {
            shard: shard.clone(),
            epoch: row.epoch,
            has_crashed,
            unclean: row.unclean,
            changes: row.changes,
            checkpoint: row.checkpoint,
            waiting: row.waiting.clone(),
            started: row.started.clone(),
            left: row.left.clone(),
        })
    }

    fn save(&mut self, member: &Name, save: &ShardSave) -> bool {
        let Some(row) = self.owned(member, &save.shard, save.epoch) else {
            return false;
        };
        row.checkpoint = save.checkpoint;
        row.waiting.clone_from(&save.waiting);
        row.started.clone_from(&save.started);
        if save.has_progressed {
            row.unclean = 0;
        }
        for (name, position) in &save.left {
            match position {
                Some(position) => drop(row.left.insert(name.clone(), *position)),
                None => drop(row.left.remove(name)),
            }
        }
        if save.is_release {
            row.owner = None;
        }
        for position in &save.finished {
            self.rows.remove(&(save.shard.handler.clone(), *position));
        }
        for saved in &save.rows {
            self.rows.insert((save.shard.handler.clone(), saved.position), (save.shard.number, saved.clone()));
        }
        true
    }

    /// Changes a dead letter: `None` deletes its row.
    fn end_dead(&mut self, handler: &Name, position: Position, row: Option<DeliveryRow>) -> bool {
        let key = (handler.clone(), position);
        let Some((number, _)) = self.rows.get(&key).filter(|(_, row)| row.dead_since.is_some()) else {
            return false;
        };
        let shard = ShardId { handler: handler.clone(), number: *number };
        match row {
            Some(row) => drop(self.rows.insert(key, (shard.number, row))),
            None => drop(self.rows.remove(&key)),
        }
        if let Some(row) = self.shards.get_mut(&shard) {
            row.changes += 1;
        }
        true
    }

    /// Returns all dead letters, oldest first.
    fn dead(&self) -> Vec<DeadRow> {
        let dead = self.rows.iter().filter_map(|((handler, position), (_, row))| {
            let (handler, attempts) = (handler.clone(), row.attempts.clone());
            Some(DeadRow { handler, position: *position, attempts, dead_since: row.dead_since?, is_held: row.is_held })
        });
        let mut dead: Vec<_> = dead.collect();
        dead.sort_by(|one, two| dead_order(one).cmp(&dead_order(two)));
        dead
    }

    fn list(&self, noted: &NotedHandler) -> ListedHandler {
        let rows = self.rows.iter().filter(|((handler, _), _)| *handler == noted.name);
        let (dead, waiting): (Vec<_>, Vec<_>) = rows.map(|(_, (_, row))| row).partition(|row| row.dead_since.is_some());
        let shards = self.shards.iter().filter(|(shard, _)| shard.handler == noted.name);
        let listed = |(shard, row): (&ShardId, &ShardRow)| ListedShard {
            number: shard.number,
            owner: row.owner.clone().filter(|owner| self.is_live(owner)),
            epoch: row.epoch,
            checkpoint: row.checkpoint,
            waiting: row.waiting.len() as u64,
            started: row.started.len() as u64,
            left: row.left.clone(),
        };
        ListedHandler {
            noted: noted.clone(),
            is_paused: self.paused.contains(&noted.group),
            shards: shards.map(listed).collect(),
            waiting_rows: waiting.len() as u64,
            dead_rows: dead.len() as u64,
        }
    }
}

fn dead_order(dead: &DeadRow) -> (time::OffsetDateTime, Position, &Name) {
    (dead.dead_since, dead.position, &dead.handler)
}

#[async_trait]
impl HandlerProgress for InMemoryEventStore {
    fn lease_ends_with_process(&self) -> bool {
        true
    }

    async fn declare_handlers(
        &self,
        declared: &[DeclaredHandler],
        head: Position,
    ) -> Result<Vec<(NotedHandler, bool)>, HandlerProgressError> {
        let mut handlers = self.handlers().0.lock();
        Ok(declared.iter().map(|declared| handlers.declare(declared, head)).collect())
    }

    async fn join(&self, member: &Member) -> Result<MemberGuard, HandlerProgressError> {
        let guard = Arc::new(());
        let mut handlers = self.handlers().0.lock();
        handlers.members.retain(|_, (_, guard)| guard.strong_count() > 0);
        handlers.members.insert(member.name.clone(), (member.clone(), Arc::downgrade(&guard)));
        Ok(Box::new(guard))
    }

    async fn leave(&self, member: &Name) -> Result<(), HandlerProgressError> {
        self.handlers().0.lock().members.remove(member);
        Ok(())
    }

    async fn members(&self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError> {
        let handlers = self.handlers().0.lock();
        Ok(names.iter().filter_map(|name| handlers.members.get(name)).map(|(member, _)| member.clone()).collect())
    }

    async fn look(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        _renew_for: Option<Duration>,
        _live_for: Duration,
    ) -> Result<Looked, HandlerProgressError> {
        let mut table = self.handlers().0.lock();
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
        Ok(Looked { held, free, members, paused: table.paused.clone() })
    }

    async fn acquire_shards(
        &self,
        member: &Name,
        wanted: &[ShardId],
        _ttl: Duration,
    ) -> Result<Vec<AcquiredShard>, HandlerProgressError> {
        let mut handlers = self.handlers().0.lock();
        Ok(wanted.iter().filter_map(|shard| handlers.acquire(member, shard)).collect())
    }

    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError> {
        let handlers = self.handlers().0.lock();
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
        let mut handlers = self.handlers().0.lock();
        if last_read.is_some_and(|(position, event_id)| !self.has_event(position, event_id)) {
            return Ok(Saved::WentBack);
        }
        let held = saves.iter().filter(|save| handlers.save(member, save)).map(|save| save.shard.clone());
        Ok(Saved::Held(held.collect()))
    }

    async fn list_handlers(&self) -> Result<Vec<ListedHandler>, HandlerProgressError> {
        let handlers = self.handlers().0.lock();
        Ok(handlers.noted.values().map(|noted| handlers.list(noted)).collect())
    }

    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>, HandlerProgressError> {
        let mut dead = self.handlers().0.lock().dead();
        dead.retain(|dead| after.is_none_or(|after| dead_order(dead) > dead_order(after)));
        dead.truncate(limit);
        Ok(dead)
    }

    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>, HandlerProgressError> {
        let dead = self.handlers().0.lock().dead();
        Ok(dead.into_iter().find(|dead| dead.handler == *handler && dead.position == position))
    }

    async fn count_dead_rows(&self, at_most: u64) -> Result<u64, HandlerProgressError> {
        Ok((self.handlers().0.lock().dead().len() as u64).min(at_most))
    }

    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        let attempts = DeliveryAttempts::default();
        let row = DeliveryRow { position, attempts, dead_since: None, is_held: false };
        Ok(self.handlers().0.lock().end_dead(handler, position, Some(row)))
    }

    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError> {
        Ok(self.handlers().0.lock().end_dead(handler, position, None))
    }

    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError> {
        let mut handlers = self.handlers().0.lock();
        match is_paused {
            true => drop(handlers.paused.insert(group.clone())),
            false => drop(handlers.paused.remove(group)),
        }
        Ok(())
    }

    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool, HandlerProgressError> {
        let mut handlers = self.handlers().0.lock();
        let is_new = !handlers.noted.contains_key(name);
        if is_new {
            handlers.add(NotedHandler::created(name.clone(), name.clone(), after));
        }
        Ok(is_new)
    }

    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>, HandlerProgressError> {
        let mut handlers = self.handlers().0.lock();
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
