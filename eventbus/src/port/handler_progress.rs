//! The progress of handlers, kept in the store beside its events.
//!
//! The streams of a store fall into 256 [slots](crate::RecordedEvent::slot). A handler has one or more *shards*; stream `s` belongs
//! to shard `slot % shards`. Each shard has a lease, which one process holds at a time, and progress:
//!
//! - a checkpoint: the highest event that was started;
//! - `waiting` and `started`: the events up to the checkpoint that have not started, and those that run;
//! - a [row](DeliveryRow) per event that failed, is a dead letter, or is suspected of ending its process;
//! - `left`: for each event type that the checkpoint does not count for, from where on it counts.
//!
//! So an event of the shard is finished if it is at or before the checkpoint, in none of the lists, without a row, and
//! not of a type that was left before it. One fenced step saves all of this: see [`HandlerProgress::save_shards`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use auto_impl::auto_impl;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{attempts::DeliveryAttempts, subscriber::HandlerStart};
use crate::domain::{error::BoxError, metadata::EventId, name::Name, stream::Position};

/// The number of [slots](crate::RecordedEvent::slot), and the largest number of shards.
pub const SLOTS: u16 = 256;

/// The type that stands for all event types in the list of a handler that takes every event.
pub const ALL_TYPES: Name = Name::from_static("*");

/// A shard of a handler.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, derive_more::Display)]
#[display("{handler}/{number}")]
pub struct ShardId {
    /// The durable name of the handler.
    pub handler: Name,
    /// The number of the shard, from 0.
    pub number: u16,
}

/// A handler as a process declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredHandler {
    /// Its durable name.
    pub name: Name,
    /// The group by which it is paused and listed.
    pub group: Name,
    /// The event types that it takes, sorted; [`ALL_TYPES`] alone if it takes every event.
    pub types: Vec<Name>,
    /// The number of its shards if the store does not know it yet, from 1 to 256.
    pub shards: u16,
    /// Where it begins, and where the types begin that it newly takes.
    pub start: HandlerStart,
}

/// What the store notes of a handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedHandler {
    /// Its durable name.
    pub name: Name,
    /// The group that a process declared last.
    pub group: Name,
    /// The number of its shards.
    pub shards: u16,
    /// Each type that a process ever declared, with the position from which on it counts.
    pub types: BTreeMap<Name, Position>,
    /// The distinct lists of types that processes declared. A list is known by its number: its place, from 1. Of the
    /// lists of live processes, the processes with the highest number own the shards.
    pub lists: Vec<Vec<Name>>,
    /// The position after which an operator let it begin, before a process declared it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_after: Option<Position>,
}

impl NotedHandler {
    /// Returns the note of a handler that is declared for the first time, in a store whose feed ends at `head`.
    #[must_use]
    pub fn new(declared: &DeclaredHandler, head: Position) -> Self {
        let mut noted = Self {
            name: declared.name.clone(),
            group: declared.group.clone(),
            shards: declared.shards.clamp(1, SLOTS),
            types: BTreeMap::new(),
            lists: Vec::new(),
            begins_after: None,
        };
        noted.declare(declared, head);
        noted
    }

    /// Returns the note of a handler that an operator creates: it has one shard, which begins after `after`.
    #[must_use]
    pub fn created(name: Name, group: Name, after: Position) -> Self {
        let (types, lists) = (BTreeMap::new(), Vec::new());
        Self { name, group, shards: 1, types, lists, begins_after: Some(after) }
    }

    /// Notes what a process declares, and returns the types that are new, with the position from which on each counts:
    /// the store adds them to `left` of every shard that exists.
    pub fn declare(&mut self, declared: &DeclaredHandler, head: Position) -> BTreeMap<Name, Position> {
        let since = match (self.begins_after, declared.start) {
            (Some(after), _) if self.lists.is_empty() => after,
            (_, HandlerStart::Oldest) => Position::START,
            (_, HandlerStart::Now) => head,
        };
        let mut new = BTreeMap::new();
        for name in &declared.types {
            if !self.types.contains_key(name) {
                self.types.insert(name.clone(), since);
                new.insert(name.clone(), since);
            }
        }
        if !self.lists.contains(&declared.types) {
            self.lists.push(declared.types.clone());
        }
        self.group = declared.group.clone();
        new
    }

    /// Returns the number of a list of types, from 1; 0 if no process declared it.
    #[must_use]
    pub fn list_number(&self, types: &[Name]) -> u32 {
        let place = self.lists.iter().position(|list| list == types);
        place.and_then(|place| u32::try_from(place + 1).ok()).unwrap_or_default()
    }

    /// Returns the position after which a new shard begins: before the first event that any of its types counts from.
    #[must_use]
    pub fn first_checkpoint(&self) -> Position {
        self.begins_after.or_else(|| self.types.values().copied().min()).unwrap_or_default()
    }
}

/// A process that runs handlers, as the store knows it while it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, drawn at each start.
    pub name: Name,
    /// Its handlers.
    pub handlers: BTreeMap<Name, MemberHandler>,
}

/// A handler of a [`Member`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberHandler {
    /// The number of its list of types: see [`NotedHandler::lists`].
    pub list: u32,
    /// The crate that defines it.
    pub crate_name: String,
}

/// Keeps a member alive in a store that sees the end of a process at once; the member is dead when this is dropped.
pub type MemberGuard = Box<dyn std::any::Any + Send + Sync>;

/// An event that a handler has not finished, with a row of its own.
///
/// | row | step | row after it |
/// |---|---|---|
/// | none, waits | the owner saves it | waits |
/// | none, waits | the owner saves it with `dead_since` | dead, or held with `is_held` |
/// | waits | the owner saves it as finished | none |
/// | dead, held | [`replay_dead`](HandlerProgress::replay_dead) | waits |
/// | dead, held | [`discard_dead`](HandlerProgress::discard_dead) | none |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// The event.
    pub position: Position,
    /// The attempts so far; empty if none has ended.
    pub attempts: DeliveryAttempts,
    /// The time when it became a dead letter, in whole microseconds; `None` while it waits.
    pub dead_since: Option<OffsetDateTime>,
    /// Set if later events of its stream wait for the replay or the end of this dead letter.
    pub is_held: bool,
}

/// A shard as its new owner finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquiredShard {
    /// The shard.
    pub shard: ShardId,
    /// The number of its ownership, one more than that of the former owner.
    pub epoch: u64,
    /// Set if the former owner, a different process, did not release it.
    pub has_crashed: bool,
    /// The number of owners in a row that ended without progress, this time included.
    pub unclean: u32,
    /// The number of changes by operators.
    pub changes: u64,
    /// The highest event that was started.
    pub checkpoint: Position,
    /// The events up to the checkpoint that have not started.
    pub waiting: Vec<Position>,
    /// The events that ran at the last save.
    pub started: Vec<Position>,
    /// The types that the checkpoint does not count for, each with the position from which on it counts.
    pub left: BTreeMap<Name, Position>,
}

/// The progress of a shard since its last save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSave {
    /// The shard.
    pub shard: ShardId,
    /// The ownership that makes the save: it changes nothing once the shard has another owner.
    pub epoch: u64,
    /// The highest event that was started.
    pub checkpoint: Position,
    /// The events up to the checkpoint that have not started, in order.
    pub waiting: Vec<Position>,
    /// The events that run, in order.
    pub started: Vec<Position>,
    /// Set if an event has ended since the shard was acquired, or the shard had no unfinished event then:
    /// [`AcquiredShard::unclean`] becomes 0.
    pub has_progressed: bool,
    /// The types that the checkpoint does not count for from a position on; `None` if it counts for the type again.
    pub left: BTreeMap<Name, Option<Position>>,
    /// The rows to write, each position once.
    pub rows: Vec<DeliveryRow>,
    /// The events whose rows to delete.
    pub finished: Vec<Position>,
    /// Set if the owner gives the shard up: its lease ends in the same step.
    pub is_release: bool,
}

/// What a process learns of its handlers in one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The shards that the process still owns, with the number of changes by operators.
    pub held: BTreeMap<ShardId, u64>,
    /// The shards of its handlers that no live process owns, and those that it owns but did not name: it has lost the
    /// answer to an acquisition, or an older copy has replaced the store.
    pub free: BTreeSet<ShardId>,
    /// The names of the live members.
    pub members: BTreeSet<Name>,
    /// The paused groups.
    pub paused: BTreeSet<Name>,
}

/// The answer to a save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// The progress of these shards is saved; the others have another owner.
    Held(BTreeSet<ShardId>),
    /// The store does not have the last event that the process read: it was replaced by an older copy. Nothing is saved.
    WentBack,
}

/// A handler with its shards, as operators list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedHandler {
    /// What the store notes of it.
    pub noted: NotedHandler,
    /// Set if its group is paused.
    pub is_paused: bool,
    /// Its shards, in order.
    pub shards: Vec<ListedShard>,
    /// The number of its rows that wait.
    pub waiting_rows: u64,
    /// The number of its dead letters, held ones included.
    pub dead_rows: u64,
}

/// A shard, as operators list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedShard {
    /// Its number.
    pub number: u16,
    /// The process that owns it; `None` if none does.
    pub owner: Option<Name>,
    /// The number of its ownerships.
    pub epoch: u64,
    /// The highest event that was started.
    pub checkpoint: Position,
    /// The number of events up to the checkpoint that have not started, those with a row left out.
    pub waiting: u64,
    /// The number of events that ran at the last save.
    pub started: u64,
    /// The types that the checkpoint does not count for, each with the position from which on it counts.
    pub left: BTreeMap<Name, Position>,
}

/// A dead letter of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRow {
    /// The handler that gave the event up.
    pub handler: Name,
    /// The event.
    pub position: Position,
    /// The attempts.
    pub attempts: DeliveryAttempts,
    /// The time when it became a dead letter, in whole microseconds.
    pub dead_since: OffsetDateTime,
    /// Set if later events of its stream wait for it.
    pub is_held: bool,
}

/// The progress of the handlers of a store.
///
/// A lease that the store lets expire is over by the store's own clock. A store that sees the end of a process at once
/// ([`lease_ends_with_process`](Self::lease_ends_with_process)) ignores the `ttl` of its methods.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
///
/// # Errors
/// Every method fails with [`HandlerProgressError`] if the store cannot be reached or a row cannot be read. The step may
/// have taken effect; repeating it does no harm.
#[async_trait]
#[auto_impl(Arc)]
pub trait HandlerProgress: Send + Sync {
    /// Returns `true` if the shards of a process are free as soon as it ends, however it ends, and not before.
    fn lease_ends_with_process(&self) -> bool;

    /// Notes handlers, and creates the shards that are missing; `head` is the end of the feed. Returns the note of each, in
    /// order.
    async fn declare_handlers(
        &self,
        declared: &[DeclaredHandler],
        head: Position,
    ) -> Result<Vec<NotedHandler>, HandlerProgressError>;

    /// Adds a live process. It is live until its guard is dropped or, in a store whose leases expire, until it has not
    /// sent a [heartbeat](Self::heartbeat) with `renew_for` for that long.
    async fn join(&self, member: &Member) -> Result<MemberGuard, HandlerProgressError>;

    /// Removes a process that ends. Its shards stay its own until it releases them or their leases are over.
    async fn leave(&self, member: &Name) -> Result<(), HandlerProgressError>;

    /// Returns these members; those that have left are not among them.
    async fn members(&self, names: &[Name]) -> Result<Vec<Member>, HandlerProgressError>;

    /// Returns the state of shards and members in one request; with `renew_for` it also renews the leases of `owned` and
    /// the life of the member for that long. `handlers` are those whose free shards to return; `live_for` is the time without a
    /// renewal after which another member is not live.
    async fn heartbeat(
        &self,
        member: &Name,
        handlers: &[Name],
        owned: &[(ShardId, u64)],
        renew_for: Option<Duration>,
        live_for: Duration,
    ) -> Result<Heartbeat, HandlerProgressError>;

    /// Acquires those of `wanted` that no other live process owns, each with a new epoch. A shard that the member itself
    /// owns is acquired again, which is no [crash](AcquiredShard::has_crashed).
    async fn acquire_shards(
        &self,
        member: &Name,
        wanted: &[ShardId],
        ttl: Duration,
    ) -> Result<Vec<AcquiredShard>, HandlerProgressError>;

    /// Loads the rows of shards that wait or are held, in the order of their positions.
    async fn live_rows(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Vec<DeliveryRow>>, HandlerProgressError>;

    /// Saves the progress of shards in one step, of each shard all or nothing: only of those whose epoch is the
    /// current one and whose owner is `member`. `last_read` is the last event of the feed that the process has read.
    ///
    /// A save locks its shards in the order of their ids, as every other method does that locks several.
    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError>;

    /// Lists all handlers that the store knows, by name.
    async fn list_handlers(&self) -> Result<Vec<ListedHandler>, HandlerProgressError>;

    /// Loads up to `limit` dead letters of all handlers, oldest first; the store chooses the order within one
    /// microsecond. `after` is the last one of the former page.
    async fn dead_rows(&self, after: Option<&DeadRow>, limit: usize) -> Result<Vec<DeadRow>, HandlerProgressError>;

    /// Loads one dead letter; `None` if the event is none of that handler.
    async fn dead_row(&self, handler: &Name, position: Position) -> Result<Option<DeadRow>, HandlerProgressError>;

    /// Counts the dead letters of all handlers, up to `at_most`.
    async fn count_dead_rows(&self, at_most: u64) -> Result<u64, HandlerProgressError>;

    /// Lets a dead letter wait again, without attempts, and counts the change at its shard, so that the owner takes it
    /// at its next heartbeat. Returns `false` if it is no dead letter.
    async fn replay_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError>;

    /// Deletes a dead letter, and counts the change at its shard. Returns `false` if it is no dead letter.
    async fn discard_dead(&self, handler: &Name, position: Position) -> Result<bool, HandlerProgressError>;

    /// Pauses a group, or resumes it.
    async fn set_paused(&self, group: &Name, is_paused: bool) -> Result<(), HandlerProgressError>;

    /// Creates a handler that no process has declared, whose shard begins after a position. Returns `false` if the store
    /// knows the handler.
    async fn create_handler(&self, name: &Name, after: Position) -> Result<bool, HandlerProgressError>;

    /// Deletes a handler with its shards and rows, dead letters included. Returns the number of rows that waited; `None`
    /// if the store does not know it, or a live process owns one of its shards.
    async fn retire_handler(&self, name: &Name) -> Result<Option<u64>, HandlerProgressError>;
}

/// The error of reading or writing the progress of handlers.
#[derive(Debug, thiserror::Error)]
#[error("the progress of handlers is unavailable")]
pub struct HandlerProgressError {
    /// The error of the store.
    pub source: BoxError,
}

impl HandlerProgressError {
    /// Wraps the error of the store.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self { source: source.into() }
    }
}
