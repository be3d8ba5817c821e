//! The table of handlers in the store in memory: shards, rows and members.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Weak,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    domain::{name::Name, stream::Position},
    port::handler_progress::{
        AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, ListedHandler, ListedShard, Member, NotedHandler,
        ShardId, ShardSave,
    },
};

/// The progress of all handlers of a store.
///
/// A member is live while its guard is, so that a lease ends with its process, here with its app.
#[derive(Debug, Default)]
pub(super) struct HandlerTable(Mutex<Handlers>);

impl HandlerTable {
    /// Locks the table for a step, never across a wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, Handlers> {
        self.0.lock()
    }
}

#[derive(Debug, Default)]
pub(super) struct Handlers {
    pub(super) noted: BTreeMap<Name, NotedHandler>,
    pub(super) shards: BTreeMap<ShardId, ShardRow>,
    /// By handler and position.
    pub(super) rows: BTreeMap<(Name, Position), (u16, DeliveryRow)>,
    pub(super) members: BTreeMap<Name, (Member, Weak<()>)>,
    pub(super) paused: BTreeSet<Name>,
}

#[derive(Debug, Default)]
pub(super) struct ShardRow {
    owner: Option<Name>,
    epoch: u64,
    unclean: u32,
    pub(super) changes: u64,
    checkpoint: Position,
    waiting: Vec<Position>,
    started: Vec<Position>,
    left: BTreeMap<Name, Position>,
}

impl Handlers {
    pub(super) fn is_live(&self, member: &Name) -> bool {
        self.members.get(member).is_some_and(|(_, guard)| guard.strong_count() > 0)
    }

    pub(super) fn is_free(&self, row: &ShardRow) -> bool {
        row.owner.as_ref().is_none_or(|owner| !self.is_live(owner))
    }

    pub(super) fn is_free_for(&self, member: &Name, row: &ShardRow) -> bool {
        row.owner.as_ref() == Some(member) || self.is_free(row)
    }

    pub(super) fn declare(&mut self, declared: &DeclaredHandler, head: Position) -> NotedHandler {
        let Some(noted) = self.noted.get_mut(&declared.name) else {
            let noted = NotedHandler::new(declared, head);
            self.add(noted.clone());
            return noted;
        };
        let (new, noted) = (noted.declare(declared, head), noted.clone());
        for (_, row) in self.shards.iter_mut().filter(|(shard, _)| shard.handler == declared.name) {
            row.left.extend(new.clone());
        }
        noted
    }

    pub(super) fn add(&mut self, noted: NotedHandler) {
        for number in 0..noted.shards {
            let row = ShardRow { checkpoint: noted.first_checkpoint(), ..ShardRow::default() };
            self.shards.insert(ShardId { handler: noted.name.clone(), number }, row);
        }
        self.noted.insert(noted.name.clone(), noted);
    }

    /// Returns the shard that this member owns in this epoch.
    pub(super) fn owned(&mut self, member: &Name, shard: &ShardId, epoch: u64) -> Option<&mut ShardRow> {
        let row = self.shards.get_mut(shard)?;
        (row.epoch == epoch && row.owner.as_ref() == Some(member)).then_some(row)
    }

    pub(super) fn acquire(&mut self, member: &Name, shard: &ShardId) -> Option<AcquiredShard> {
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

    pub(super) fn save(&mut self, member: &Name, save: &ShardSave) -> bool {
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
    pub(super) fn end_dead(&mut self, handler: &Name, position: Position, row: Option<DeliveryRow>) -> bool {
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
    pub(super) fn dead(&self) -> Vec<DeadRow> {
        let dead = self.rows.iter().filter_map(|((handler, position), (_, row))| {
            let (handler, attempts) = (handler.clone(), row.attempts.clone());
            Some(DeadRow { handler, position: *position, attempts, dead_since: row.dead_since?, is_held: row.is_held })
        });
        let mut dead: Vec<_> = dead.collect();
        dead.sort_by(|one, two| dead_order(one).cmp(&dead_order(two)));
        dead
    }

    pub(super) fn list(&self, noted: &NotedHandler) -> ListedHandler {
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

pub(super) fn dead_order(dead: &DeadRow) -> (time::OffsetDateTime, Position, &Name) {
    (dead.dead_since, dead.position, &dead.handler)
}
