//! The tables of the progress of handlers.
//!
//! Invariant: a shard has an owner in the table until it is released or acquired, also if that process is dead. So each use
//! of an owner checks the lock of its process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use eventbus::{
    EventId, Name, Position,
    delivery::DeliveryAttempts,
    port::handler_progress::{
        AcquiredShard, DeadRow, DeclaredHandler, DeliveryRow, Heartbeat, ListedHandler, ListedShard, Member,
        NotedHandler, Saved, ShardId, ShardSave,
    },
};
use rusqlite::{
    Connection, Params, Result, Row, ffi,
    types::{FromSql, Type},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    member_locks::MemberLocks,
    query::{execute, query_rows, query_value},
    row::{epoch_to_i64, from_micros, to_micros},
};

/// The tables as one connection sees them.
pub(crate) struct HandlerTable<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) locks: &'c MemberLocks,
}

impl HandlerTable<'_> {
    /// Notes a handler; returns its note, and whether it is new.
    pub(crate) fn declare(&self, declared: &DeclaredHandler, head: Position) -> Result<NotedHandler> {
        let Some(mut noted) = self.load(&declared.name)? else {
            let noted = NotedHandler::new(declared, head);
            self.add(&noted)?;
            return Ok(noted);
        };
        let new = noted.declare(declared, head);
        self.save_note(&noted)?;
        if !new.is_empty() {
            let new = (declared.name.as_str(), to_json(&new));
            self.execute(include_str!("sql/leave_types.sql"), new)?;
        }
        Ok(noted)
    }

    /// Adds a handler that an operator creates; returns `false` if there is one with that name.
    pub(crate) fn create(&self, name: &Name, after: Position) -> Result<bool> {
        let is_new = self.load(name)?.is_none();
        if is_new {
            self.add(&NotedHandler::created(name.clone(), name.clone(), after))?;
        }
        Ok(is_new)
    }

    fn add(&self, noted: &NotedHandler) -> Result<()> {
        self.save_note(noted)?;
        for shard in 0..noted.shards {
            let shard = (noted.name.as_str(), shard, noted.first_checkpoint().as_i64());
            self.execute(include_str!("sql/insert_shard.sql"), shard)?;
        }
        Ok(())
    }

    fn load(&self, name: &Name) -> Result<Option<NotedHandler>> {
        let sql = include_str!("sql/load_handler.sql");
        let found = self.rows(sql, [name.as_str()], |row| get_json(row, 0));
        found.map(|found| found.into_iter().next())
    }

    fn save_note(&self, noted: &NotedHandler) -> Result<()> {
        let note = (noted.name.as_str(), to_json(noted));
        self.execute(include_str!("sql/save_handler.sql"), note).map(drop)
    }

    /// Adds a member, which has a lock, and forgets those that are dead.
    pub(crate) fn join(&self, member: &Member, lock_id: &str) -> Result<()> {
        self.forget_dead_members()?;
        let row = (member.name.as_str(), lock_id, to_json(&member.handlers));
        self.execute(include_str!("sql/save_member.sql"), row).map(drop)
    }

    /// Forgets a member; the file of its lock goes with its guard.
    pub(crate) fn leave(&self, member: &Name) -> Result<()> {
        self.execute(include_str!("sql/forget_member.sql"), [member.as_str()]).map(drop)
    }

    fn forget_dead_members(&self) -> Result<()> {
        for (name, lock_id) in self.members()? {
            if !self.is_held(&lock_id)? {
                self.locks.remove(&lock_id);
                self.execute(include_str!("sql/forget_member.sql"), [name.as_str()])?;
            }
        }
        Ok(())
    }

    fn members(&self) -> Result<Vec<(Name, String)>> {
        let sql = include_str!("sql/list_members.sql");
        self.rows(sql, [], |row| Ok((get_name(row, 0)?, row.get(1)?)))
    }

    fn is_held(&self, lock_id: &str) -> Result<bool> {
        let fault = ffi::Error::new(ffi::SQLITE_IOERR_CHECKRESERVEDLOCK);
        let is_held = self.locks.is_held(lock_id);
        is_held.map_err(|error| rusqlite::Error::SqliteFailure(fault, Some(error.to_string())))
    }

    /// Returns the members that live.
    pub(crate) fn live_members(&self) -> Result<BTreeSet<Name>> {
        let mut live = BTreeSet::new();
        for (name, lock_id) in self.members()? {
            if self.is_held(&lock_id)? {
                live.insert(name);
            }
        }
        Ok(live)
    }

    pub(crate) fn member(&self, name: &Name) -> Result<Option<Member>> {
        let handlers = self.rows(include_str!("sql/load_member.sql"), [name.as_str()], |row| get_json(row, 0));
        handlers.map(|found| found.into_iter().next().map(|handlers| Member { name: name.clone(), handlers }))
    }

    fn paused(&self) -> Result<BTreeSet<Name>> {
        let sql = include_str!("sql/list_paused.sql");
        self.rows(sql, [], |row| get_name(row, 0)).map(BTreeSet::from_iter)
    }

    pub(crate) fn set_paused(&self, group: &Name, is_paused: bool) -> Result<()> {
        let sql = match is_paused {
            true => include_str!("sql/pause_group.sql"),
            false => include_str!("sql/resume_group.sql"),
        };
        self.execute(sql, [group.as_str()]).map(drop)
    }

    /// Returns the state of the shards of handlers and of the owned ones, each with the epoch of its ownership.
    pub(crate) fn heartbeat(
        &self,
        member: &Name,
        handlers: &BTreeSet<Name>,
        owned: &BTreeMap<ShardId, u64>,
    ) -> Result<Heartbeat> {
        let names: BTreeSet<_> = handlers.iter().chain(owned.keys().map(|shard| &shard.handler)).collect();
        // the shards first: a member that joins and acquires one meanwhile is live
        let shards = self.rows(include_str!("sql/heartbeat.sql"), [to_json(&names)], |row| {
            let shard = ShardId { handler: get_name(row, 0)?, number: row.get(1)? };
            Ok((shard, get_optional_name(row, 2)?, get_u64(row, 3)?, get_u64(row, 4)?))
        });
        let (members, mut beat) = (self.live_members()?, Heartbeat::default());
        for (shard, owner, epoch, changes) in shards? {
            let is_own = owner.as_ref() == Some(member);
            if is_own && owned.get(&shard) == Some(&epoch) {
                beat.held.insert(shard, changes);
            } else if handlers.contains(&shard.handler)
                && (is_own || owner.is_none_or(|owner| !members.contains(&owner)))
            {
                beat.free.insert(shard);
            }
        }
        Ok(Heartbeat { members, paused: self.paused()?, ..beat })
    }

    /// Acquires those of `wanted` that are free, or the member's own.
    pub(crate) fn acquire(&self, member: &Name, wanted: &[ShardId]) -> Result<Vec<AcquiredShard>> {
        let (mut live, mut acquired) = (self.live_members()?, Vec::new());
        live.remove(member);
        for shard in wanted {
            let key = (shard.handler.as_str(), shard.number);
            let owner = self.rows(include_str!("sql/shard_owner.sql"), key, |row| get_optional_name(row, 0))?.pop();
            if let Some(owner) = owner.filter(|owner| owner.as_ref().is_none_or(|owner| !live.contains(owner))) {
                let has_crashed = owner.is_some_and(|owner| owner != *member);
                let new_owner = (shard.handler.as_str(), shard.number, member.as_str());
                let read = |row: &Row<'_>| read_acquired(row, shard, has_crashed);
                acquired.extend(self.rows(include_str!("sql/acquire_shard.sql"), new_owner, read)?);
            }
        }
        if acquired.iter().any(|acquired| acquired.has_crashed) {
            self.forget_dead_members()?;
        }
        Ok(acquired)
    }

    pub(crate) fn live_rows(&self, handler: &Name) -> Result<Vec<(ShardId, DeliveryRow)>> {
        self.rows(include_str!("sql/live_handler_rows.sql"), [handler.as_str()], |row| {
            let dead_since = row.get::<_, Option<i64>>(3)?.map(|micros| from_micros(micros).map_err(corrupt(row, 3)));
            let shard = ShardId { handler: handler.clone(), number: row.get(0)? };
            Ok((
                shard,
                DeliveryRow {
                    position: get_position(row, 1)?,
                    attempts: get_attempts(row, 2)?,
                    dead_since: dead_since.transpose()?,
                    is_held: row.get(4)?,
                },
            ))
        })
    }

    /// Saves the shards that the member still owns.
    pub(crate) fn save(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved> {
        if let Some((position, event_id)) = last_read {
            let last_read = (position.as_i64(), event_id.as_uuid().into_bytes());
            if self.value(include_str!("sql/is_last_read.sql"), last_read)? != Some(true) {
                return Ok(Saved::WentBack);
            }
        }
        let mut held = BTreeSet::new();
        for save in saves {
            if self.save_shard(member, save)? {
                held.insert(save.shard.clone());
            }
        }
        Ok(Saved::Held(held))
    }

    fn save_shard(&self, member: &Name, save: &ShardSave) -> Result<bool> {
        let handler = save.shard.handler.as_str();
        let progress = (
            handler,
            save.shard.number,
            member.as_str(),
            epoch_to_i64(save.epoch),
            save.checkpoint.as_i64(),
            to_json(&save.waiting),
            to_json(&save.started),
            save.has_progressed,
            to_json(&save.left),
            save.is_release,
        );
        if self.execute(include_str!("sql/save_shard.sql"), progress)? == 0 {
            return Ok(false);
        }
        for position in &save.finished {
            let row = (handler, position.as_i64());
            self.execute(include_str!("sql/forget_handler_row.sql"), row)?;
        }
        for row in &save.rows {
            let dead_since = row.dead_since.map(to_micros);
            let (position, attempts) = (row.position.as_i64(), row.attempts.to_json());
            let row = (handler, position, save.shard.number, attempts, dead_since, row.is_held);
            self.execute(include_str!("sql/save_handler_row.sql"), row)?;
        }
        Ok(true)
    }

    pub(crate) fn list(&self) -> Result<Vec<ListedHandler>> {
        let (paused, live) = (self.paused()?, self.live_members()?);
        self.rows(include_str!("sql/list_handlers.sql"), [], |row| {
            let noted: NotedHandler = get_json(row, 1)?;
            Ok(ListedHandler {
                is_paused: paused.contains(&noted.group),
                shards: self.list_shards(&noted.name, &live)?,
                noted,
                waiting_rows: get_u64(row, 2)?,
                dead_rows: get_u64(row, 3)?,
            })
        })
    }

    fn list_shards(&self, handler: &Name, live: &BTreeSet<Name>) -> Result<Vec<ListedShard>> {
        self.rows(include_str!("sql/list_shards.sql"), [handler.as_str()], |row| {
            Ok(ListedShard {
                number: row.get(0)?,
                owner: get_optional_name(row, 1)?.filter(|owner| live.contains(owner)),
                epoch: get_u64(row, 2)?,
                checkpoint: get_position(row, 3)?,
                waiting: get_u64(row, 4)?,
                started: get_u64(row, 5)?,
                left: get_json(row, 6)?,
            })
        })
    }

    pub(crate) fn count_dead(&self, at_most: i64) -> Result<u64> {
        let count: Option<i64> = self.value(include_str!("sql/count_dead_rows.sql"), [at_most])?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    pub(crate) fn dead_rows(&self, after: Option<&DeadRow>, limit: i64) -> Result<Vec<DeadRow>> {
        let (since, position, handler) = after.map_or((i64::MIN, 0, ""), |after| {
            (to_micros(after.dead_since), after.position.as_i64(), after.handler.as_str())
        });
        let parameters = (since, position, handler, limit);
        self.rows(include_str!("sql/dead_rows.sql"), parameters, read_dead)
    }

    pub(crate) fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>> {
        let key = (handler.as_str(), position.as_i64());
        let found = self.rows(include_str!("sql/dead_row.sql"), key, read_dead);
        found.map(|found| found.into_iter().next())
    }

    /// Lets a dead letter wait again, without attempts; returns `false` if it is none.
    pub(crate) fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool> {
        let row = (handler.as_str(), position.as_i64(), DeliveryAttempts::default().to_json());
        let shard = self.value(include_str!("sql/replay_dead_row.sql"), row)?;
        self.note_change(handler, shard)
    }

    /// Deletes a dead letter; returns `false` if it is none.
    pub(crate) fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool> {
        let row = (handler.as_str(), position.as_i64());
        let shard = self.value(include_str!("sql/discard_dead_row.sql"), row)?;
        self.note_change(handler, shard)
    }

    fn note_change(&self, handler: &Name, shard: Option<u16>) -> Result<bool> {
        let Some(shard) = shard else {
            return Ok(false);
        };
        self.execute(include_str!("sql/note_change.sql"), (handler.as_str(), shard))?;
        Ok(true)
    }

    /// Deletes a handler that no live process owns; returns the number of its rows that waited.
    pub(crate) fn retire(&self, name: &Name) -> Result<Option<u64>> {
        let key = [name.as_str()];
        let owners = self.rows(include_str!("sql/shard_owners.sql"), key, |row| get_name(row, 0))?;
        let live = self.live_members()?;
        if owners.iter().any(|owner| live.contains(owner))
            || self.execute(include_str!("sql/forget_handler.sql"), key)? == 0
        {
            return Ok(None);
        }
        let waited: Option<i64> = self.value(include_str!("sql/count_waiting_rows.sql"), key)?;
        self.execute(include_str!("sql/forget_handler_rows.sql"), key)?;
        self.execute(include_str!("sql/forget_shards.sql"), key)?;
        Ok(waited.map(i64::unsigned_abs))
    }

    fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize> {
        execute(self.connection, sql, parameters)
    }

    fn rows<T>(&self, sql: &str, parameters: impl Params, decode: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        query_rows(self.connection, sql, parameters, decode)
    }

    fn value<T: FromSql>(&self, sql: &str, parameters: impl Params) -> Result<Option<T>> {
        query_value(self.connection, sql, parameters)
    }
}

fn read_acquired(row: &Row<'_>, shard: &ShardId, has_crashed: bool) -> Result<AcquiredShard> {
    Ok(AcquiredShard {
        shard: shard.clone(),
        epoch: get_u64(row, 0)?,
        has_crashed,
        unclean: row.get(1)?,
        changes: get_u64(row, 2)?,
        checkpoint: get_position(row, 3)?,
        waiting: get_json(row, 4)?,
        started: get_json(row, 5)?,
        left: get_json(row, 6)?,
    })
}

fn read_dead(row: &Row<'_>) -> Result<DeadRow> {
    Ok(DeadRow {
        handler: get_name(row, 0)?,
        position: get_position(row, 1)?,
        attempts: get_attempts(row, 2)?,
        dead_since: from_micros(row.get(3)?).map_err(corrupt(row, 3))?,
        is_held: row.get(4)?,
    })
}

/// Texts, numbers, and lists and maps of them cannot fail.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn get_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(corrupt(row, column))?;
    serde_json::from_str(text).map_err(corrupt(row, column))
}

fn get_attempts(row: &Row<'_>, column: usize) -> Result<DeliveryAttempts> {
    let text = row.get_ref(column)?.as_str().map_err(corrupt(row, column))?;
    DeliveryAttempts::from_json(text).map_err(corrupt(row, column))
}

fn get_name(row: &Row<'_>, column: usize) -> Result<Name> {
    let text = row.get_ref(column)?.as_str().map_err(corrupt(row, column))?;
    Name::new("name", text).map_err(corrupt(row, column))
}

fn get_optional_name(row: &Row<'_>, column: usize) -> Result<Option<Name>> {
    let text = row.get_ref(column)?.as_str_or_null().map_err(corrupt(row, column))?;
    text.map(|text| Name::new("name", text)).transpose().map_err(corrupt(row, column))
}

fn get_position(row: &Row<'_>, column: usize) -> Result<Position> {
    get_u64(row, column).map(Position::new)
}

fn get_u64(row: &Row<'_>, column: usize) -> Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(corrupt(row, column))
}

fn corrupt<E: Display>(row: &Row<'_>, column: usize) -> impl FnOnce(E) -> rusqlite::Error {
    move |error| {
        let name = row.as_ref().column_name(column).unwrap_or("?");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("column `{name}`: {error}").into())
    }
}
