//! A handler in this process: the shards that it owns, and the workers that run their events.
//!
//! Invariant: one lock guards the shards and the number of workers. A worker that finds nothing to do leaves under that
//! lock, and a task that makes an event ready starts workers under it: no event waits without a worker.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::RangeMut},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    feed_window::Page,
    left_types::LeftTypes,
    shard::{End, Restored, Shard, Size, Taken},
    slots::Slots,
};
use crate::{
    delivery::{ActiveSubscriber, ConsumerReport, Limits},
    domain::{clock::SharedClock, event::EventFilter, name::Name, record::RecordedEvent, stream::Position},
    port::{
        handler_progress::{ALL_TYPES, AcquiredShard, DeclaredHandler, DeliveryRow, ShardId, ShardSave},
        health::OldestUnfinished,
        retry::RetryPolicy,
        stats::InFlightCounts,
        subscriber::HandlerStart,
    },
};

/// The most events of a page of the feed.
pub(super) const PAGE_EVENTS: usize = 256;
/// The most events with bodies that a handler holds before a worker is free.
const READ_AHEAD: usize = 2 * PAGE_EVENTS;
/// The most bytes of their payloads.
const READ_AHEAD_BYTES: usize = 4 * 1024 * 1024;
/// The most events that wait behind failed ones of their streams before the handler reads no more.
pub(super) const MAX_WAITING: usize = 100_000;

/// The most runs of a handler that end before their progress is saved: what a crash repeats at most, beside what runs.
const SAVED_RUNS_MAX: u64 = 256;

/// A handler as the engine runs it.
#[derive(Debug, Clone)]
pub(super) struct HandlerSpec {
    pub(super) name: Name,
    /// The group by which it is paused and listed.
    pub(super) group: Name,
    pub(super) events: EventFilter,
    /// The number of its shards if the store does not know the handler yet.
    pub(super) shards: u16,
    pub(super) start: HandlerStart,
    /// The crate that defines it.
    pub(super) crate_name: String,
    pub(super) retry: RetryPolicy,
    pub(super) limits: Limits,
    pub(super) max_waiting: usize,
    /// Set if a dead letter blocks its stream.
    pub(super) holds_dead: bool,
}

impl HandlerSpec {
    /// Returns what the store notes of the handler.
    pub(super) fn declared(&self) -> DeclaredHandler {
        let (name, group) = (self.name.clone(), self.group.clone());
        DeclaredHandler { name, group, types: self.types(), shards: self.shards, start: self.start }
    }

    /// Returns the types that it takes, sorted.
    pub(super) fn types(&self) -> Vec<Name> {
        match self.events {
            EventFilter::All => vec![ALL_TYPES],
            typed => {
                let mut types: Vec<_> = typed.event_types().into_iter().map(Name::from_static).collect();
                types.dedup();
                types
            }
        }
    }
}

/// A handler with the shards that this process owns.
pub(super) struct HandlerQueue {
    pub(super) spec: HandlerSpec,
    clock: SharedClock,
    pub(super) subscriber: Arc<ActiveSubscriber>,
    /// Held for moments, never across a wait.
    state: Mutex<QueueState>,
    /// The runs that ended since the last save.
    unsaved: AtomicU64,
    /// Set while the handler reads no more because it has no room.
    is_full: AtomicBool,
}

#[derive(Default)]
struct QueueState {
    shards: BTreeMap<u16, OwnedShard>,
    /// The number of all shards of the handler.
    shard_count: u16,
    workers: usize,
    is_paused: bool,
    /// The shard that the next event is taken of, if it has one.
    next_shard: u16,
    /// Since when the handler reads no more because too many events wait behind failed ones.
    crowded_since: Option<OffsetDateTime>,
}

struct OwnedShard {
    shard: Shard,
    slots: Slots,
    left: LeftTypes,
    /// No event starts from then on: the lease may be over. `None` if it ends with the process.
    deadline: Option<Instant>,
    changes: u64,
    /// Set if no event starts any more, because the shard is to be released.
    is_leaving: bool,
    /// Set while a save that releases it is under way.
    is_releasing: bool,
}

impl OwnedShard {
    fn may_start(&self, now: Instant) -> bool {
        !self.is_leaving && self.deadline.is_none_or(|deadline| now < deadline)
    }
}

impl QueueState {
    fn size(&self) -> Size {
        self.shards.values().fold(Size::default(), |size, owned| size.plus(owned.shard.size()))
    }

    fn startable(&self, now: Instant) -> impl Iterator<Item = &OwnedShard> {
        self.shards.values().filter(move |owned| !self.is_paused && owned.may_start(now))
    }

    /// Takes the next event, of the shards in turn.
    fn take(&mut self, now: Instant, take: impl Fn(&mut Shard) -> Option<Taken>) -> Option<Taken> {
        if self.is_paused {
            return None;
        }
        let next = self.next_shard;
        let of_first = |shards: RangeMut<'_, u16, OwnedShard>| {
            shards.filter(|(_, owned)| owned.may_start(now)).find_map(|(_, owned)| take(&mut owned.shard))
        };
        let taken = of_first(self.shards.range_mut(next..)).or_else(|| of_first(self.shards.range_mut(..next)))?;
        self.next_shard = taken.shard + 1;
        Some(taken)
    }

    fn end(&mut self, taken: &Taken, end: End, now: u64) {
        let owned = self.shards.get_mut(&taken.shard).filter(|owned| owned.shard.epoch() == taken.epoch);
        if let Some(owned) = owned {
            owned.shard.end(taken, end, now);
        }
    }
}

/// What a worker learns when it asks for an event.
pub(super) struct Next {
    /// The event; `None` if the worker has to leave.
    pub(super) taken: Option<Taken>,
    /// Set if the handler was full and reads again.
    pub(super) wants_more: bool,
    /// Set if so many runs have ended that their progress is to be saved at once.
    pub(super) is_save_due: bool,
}

/// What a handler has to read of the feed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The events after this position.
    After(Position),
    /// The events of types that a shard was left with: of this range.
    Left { shard: u16, epoch: u64, after: Position, through: Position },
}

impl HandlerQueue {
    pub(super) fn new(spec: HandlerSpec, subscriber: Arc<ActiveSubscriber>, clock: SharedClock) -> Self {
        let state = Mutex::default();
        Self { spec, clock, subscriber, state, unsaved: AtomicU64::new(0), is_full: AtomicBool::new(false) }
    }

    /// Sets the number of all shards of the handler, as the store notes it.
    pub(super) fn set_shard_count(&self, count: u16) {
        self.state.lock().shard_count = count;
    }

    /// Returns the most events that may run at once.
    fn workers_max(&self) -> usize {
        self.subscriber.runs_max(&self.spec.limits)
    }

    /// Returns the number of workers to start: as many as there are events ready, as far as the handler may run more.
    /// The caller starts them.
    pub(super) fn claim_workers(&self, clock: &SharedClock) -> usize {
        let most = self.workers_max();
        let mut state = self.state.lock();
        let (now, millis) = (Instant::now(), clock.unix_millis());
        for owned in state.shards.values_mut() {
            owned.shard.wake_due(millis);
        }
        let ready: usize = state.startable(now).map(|owned| owned.shard.ready()).sum();
        let claimed = ready.min(most.saturating_sub(state.workers));
        state.workers += claimed;
        claimed
    }

    /// Ends a worker's last event, and takes the next one for it; `None` if the worker has to leave.
    pub(super) fn next(&self, ended: Option<(Taken, End)>, clock: &SharedClock) -> Next {
        let most = self.workers_max();
        let mut state = self.state.lock();
        let is_ended = ended.is_some();
        if let Some((taken, end)) = ended {
            state.end(&taken, end, clock.unix_millis());
        }
        let taken = if state.workers > most { None } else { state.take(Instant::now(), Shard::take) };
        if taken.is_none() {
            state.workers -= 1;
        }
        let wants_more = self.has_room_again(&state);
        drop(state);
        let unsaved = if is_ended { self.unsaved.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        Next { taken, wants_more, is_save_due: unsaved >= SAVED_RUNS_MAX }
    }

    /// Returns for how long the next event that runs alone waits for others to end; `None` if there is none.
    pub(super) fn wait_to_run_alone(&self) -> Option<Duration> {
        self.state.lock().startable(Instant::now()).find_map(|owned| owned.shard.wait_to_run_alone())
    }

    /// Takes an event that runs alone; `is_counted` as for [`Shard::take_alone`].
    pub(super) fn take_alone(&self, is_counted: bool) -> Option<Taken> {
        self.state.lock().take(Instant::now(), |shard| shard.take_alone(is_counted))
    }

    pub(super) fn end(&self, taken: &Taken, end: End, clock: &SharedClock) {
        self.state.lock().end(taken, end, clock.unix_millis());
    }

    /// Returns `true` if the shard still has this owner.
    pub(super) fn owns(&self, shard: u16, epoch: u64) -> bool {
        self.state.lock().shards.get(&shard).is_some_and(|owned| owned.shard.epoch() == epoch)
    }

    /// Returns `true` if this owner still has the shard, and an event of it may start.
    pub(super) fn may_start(&self, shard: u16, epoch: u64) -> bool {
        let state = self.state.lock();
        let owned = state.shards.get(&shard).filter(|owned| owned.shard.epoch() == epoch);
        owned.is_some_and(|owned| owned.deadline.is_none_or(|deadline| Instant::now() < deadline))
    }

    /// Makes the events ready that are due by then, in milliseconds of the Unix clock.
    pub(super) fn wake_due(&self, now: u64) {
        self.state.lock().shards.values_mut().for_each(|owned| owned.shard.wake_due(now));
    }

    /// Returns when the next event is due, in milliseconds of the Unix clock.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.state.lock().shards.values().filter_map(|owned| owned.shard.next_due()).min()
    }

    /// Returns `true` if the handler may hold so many more events; notes that it is full otherwise.
    fn has_room(&self, state: &QueueState, events: usize) -> bool {
        let size = state.size();
        let has_room =
            size.bodies + events <= READ_AHEAD && size.bytes < READ_AHEAD_BYTES && size.events < self.spec.max_waiting;
        if !has_room {
            self.is_full.store(true, Ordering::Relaxed);
        }
        has_room
    }

    /// Returns `true` once when a full handler has much room again.
    fn has_room_again(&self, state: &QueueState) -> bool {
        let is_full = self.is_full.load(Ordering::Relaxed);
        let size = if is_full { state.size() } else { return false };
        let has_much = size.bodies + PAGE_EVENTS <= READ_AHEAD
            && size.bytes <= READ_AHEAD_BYTES / 2
            && size.events < self.spec.max_waiting;
        has_much && self.is_full.swap(false, Ordering::Relaxed)
    }

    /// Returns what the handler wants to read next, the lowest position of its shards first; `None` if it has no room,
    /// or no shard.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let state = self.state.lock();
        // a page that is taken in part is read again
        if state.is_paused || !self.has_room(&state, PAGE_EVENTS) {
            return None;
        }
        let reading = || state.shards.values().filter(|owned| !owned.is_leaving);
        let left = reading().filter(|owned| !owned.shard.is_crowded_below()).find_map(|owned| {
            let (after, through) = owned.left.unread()?;
            Some(Wanted::Left { shard: owned.shard.id().number, epoch: owned.shard.epoch(), after, through })
        });
        let after = reading().filter(|owned| owned.left.unread().is_none()).map(|owned| owned.shard.read()).min();
        left.or_else(|| after.map(Wanted::After))
    }

    /// Offers a page of the feed: each shard takes what it has not read, if the page has all its slots.
    pub(super) fn offer(&self, page: &Page, clock: &SharedClock) {
        let Page { after, through, ref events, slots } = *page;
        let mut state = self.state.lock();
        let (count, now) = (state.shard_count, clock.unix_millis());
        let is_behind = |owned: &OwnedShard| {
            slots.covers(owned.slots)
                && !owned.is_leaving
                && owned.left.unread().is_none()
                && owned.shard.read() >= after
                && owned.shard.read() < through
        };
        let numbers: Vec<u16> =
            state.shards.iter().filter(|(_, owned)| is_behind(owned)).map(|(number, _)| *number).collect();
        if numbers.is_empty() || state.is_paused {
            return;
        }
        let mut reached = through;
        for event in events {
            let position = event.position().unwrap_or_default();
            if !self.has_room(&state, 1) {
                reached = Position::new(position.get().saturating_sub(1));
                break;
            }
            if !self.spec.events.matches(event.event_type()) {
                continue;
            }
            let number = u16::from(event.slot()).checked_rem(count).unwrap_or_default();
            let Some(owned) = state.shards.get_mut(&number).filter(|_| numbers.contains(&number)) else { continue };
            if position > owned.shard.read() && owned.left.counts(event.event_type(), position) {
                owned.shard.add(event.clone(), now);
            }
        }
        for number in numbers {
            if let Some(owned) = state.shards.get_mut(&number) {
                owned.shard.note_read(reached);
                for name in owned.left.begun(reached) {
                    owned.shard.set_left(name, None);
                }
            }
        }
        // here, as a handler without room is offered nothing more
        let is_crowded = state.size().events >= self.spec.max_waiting;
        state.crowded_since = state.crowded_since.or_else(|| Some(clock.now())).filter(|_| is_crowded);
    }

    /// Offers the events of left types in a range to the shard that wanted them.
    pub(super) fn offer_left(
        &self,
        wanted: &Wanted,
        through: Position,
        events: Vec<RecordedEvent>,
        clock: &SharedClock,
    ) {
        let Wanted::Left { shard, epoch, .. } = wanted else { return };
        let mut state = self.state.lock();
        let count = state.shard_count;
        let Some(owned) = state.shards.get_mut(shard).filter(|owned| owned.shard.epoch() == *epoch) else { return };
        for event in events {
            let is_its = u16::from(event.slot()).checked_rem(count) == Some(*shard);
            let position = event.position().unwrap_or_default();
            if is_its && self.spec.events.matches(event.event_type()) && owned.left.counts(event.event_type(), position)
            {
                owned.shard.add(event, clock.unix_millis());
            }
        }
        for (name, from) in owned.left.note_read(through) {
            owned.shard.set_left(name, from);
        }
    }

    /// Owns a shard from now on, with the events that the former owner did not finish, in order. Those of types that
    /// the handler does not take wait for another owner. `head` as for [`Shard::new`].
    pub(super) fn acquire(
        &self,
        acquired: &AcquiredShard,
        restored: Vec<Restored>,
        (noted, head): (&BTreeMap<Name, Position>, Position),
        deadline: Option<Instant>,
        clock: &SharedClock,
    ) {
        let (mut left, leaves) = LeftTypes::new(acquired, &self.spec.types(), noted);
        let mut shard = Shard::new(acquired, head);
        for name in left.begun(acquired.checkpoint) {
            shard.set_left(name, None);
        }
        let started: BTreeSet<_> = acquired.started.iter().copied().collect();
        for restored in restored {
            if !self.spec.events.matches(restored.event.event_type()) {
                shard.note_unfinished();
                if restored.row.is_none() {
                    shard.leave_row(restored.position);
                }
                continue;
            }
            let has_died = acquired.has_crashed && started.contains(&restored.position);
            shard.restore(restored, has_died, clock.unix_millis(), clock.now());
        }
        for name in leaves {
            shard.set_left(name, Some(acquired.checkpoint));
        }
        if left.unread().is_none() {
            shard.note_idle();
        }
        let (number, changes) = (acquired.shard.number, acquired.changes);
        let mut state = self.state.lock();
        let slots = Slots::of_shard(number, state.shard_count);
        let owned = OwnedShard { shard, slots, left, deadline, changes, is_leaving: false, is_releasing: false };
        state.shards.insert(number, owned);
    }

    /// Returns the shards with their epochs.
    pub(super) fn owned(&self) -> Vec<(ShardId, u64)> {
        let state = self.state.lock();
        state.shards.values().map(|owned| (owned.shard.id().clone(), owned.shard.epoch())).collect()
    }

    /// Returns the slots of the shards here.
    pub(super) fn slots(&self) -> Slots {
        self.state.lock().shards.values().fold(Slots::default(), |slots, owned| slots.with(owned.slots))
    }

    /// Returns the number of shards that stay.
    pub(super) fn staying(&self) -> usize {
        self.state.lock().shards.values().filter(|owned| !owned.is_leaving).count()
    }

    /// Renews the right of the shards to start events.
    pub(super) fn renew(&self, held: &BTreeMap<ShardId, u64>, deadline: Option<Instant>) {
        for (shard, owned) in &mut self.state.lock().shards {
            if held.contains_key(&ShardId { handler: self.spec.name.clone(), number: *shard }) {
                owned.deadline = deadline;
            }
        }
    }

    /// Forgets a shard that another process owns; its runs end without effect on the progress.
    pub(super) fn forget(&self, shard: u16, epoch: u64) {
        let mut state = self.state.lock();
        if state.shards.get(&shard).is_some_and(|owned| owned.shard.epoch() == epoch) {
            state.shards.remove(&shard);
        }
    }

    /// Forgets all shards.
    pub(super) fn forget_all(&self) {
        self.state.lock().shards.clear();
    }

    /// Starts no event of `number` shards any more, so that they are released; of all if `None`. Returns how many.
    pub(super) fn begin_release(&self, number: Option<usize>) -> usize {
        let mut state = self.state.lock();
        let staying = state.shards.values_mut().rev().filter(|owned| !owned.is_leaving);
        staying.take(number.unwrap_or(usize::MAX)).map(|owned| owned.is_leaving = true).count()
    }

    /// Gives the running events back, because their runs were aborted.
    pub(super) fn abort_runs(&self, clock: &SharedClock) {
        self.state.lock().shards.values_mut().for_each(|owned| owned.shard.abort_runs(clock));
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state.lock().is_paused
    }

    /// Sets whether the group is paused; returns `true` if that is a change.
    pub(super) fn set_paused(&self, is_paused: bool) -> bool {
        std::mem::replace(&mut self.state.lock().is_paused, is_paused) != is_paused
    }

    /// Returns the shards whose rows operators have changed, with the number of changes.
    pub(super) fn changed(&self, held: &BTreeMap<ShardId, u64>) -> Vec<(ShardId, u64)> {
        let state = self.state.lock();
        let changed = state.shards.values().filter_map(|owned| {
            let changes = held.get(owned.shard.id()).filter(|changes| **changes != owned.changes)?;
            Some((owned.shard.id().clone(), *changes))
        });
        changed.collect()
    }

    /// Returns the rows that wait in the store and not here: of these events an operator has replayed the dead letters.
    pub(super) fn missing_rows(&self, shard: u16, rows: Vec<DeliveryRow>) -> Vec<DeliveryRow> {
        let state = self.state.lock();
        let Some(owned) = state.shards.get(&shard) else { return Vec::new() };
        let known = owned.shard.known();
        let held = owned.shard.held();
        let is_new =
            |row: &DeliveryRow| !row.is_held && (!known.contains(&row.position) || held.contains(&row.position));
        rows.into_iter().filter(is_new).collect()
    }

    /// Starts the events that an operator replayed, and removes held ones that have no row any more.
    pub(super) fn apply_changes(
        &self,
        (shard, changes): (u16, u64),
        replayed: Vec<(RecordedEvent, DeliveryRow)>,
        rows: &BTreeSet<Position>,
        clock: &SharedClock,
    ) {
        let mut state = self.state.lock();
        let Some(owned) = state.shards.get_mut(&shard) else { return };
        owned.changes = changes;
        let now = clock.unix_millis();
        for (event, row) in replayed {
            owned.shard.replay(event, row, now);
        }
        let held = owned.shard.held();
        for position in held.difference(rows) {
            owned.shard.discard(*position, now);
        }
    }

    /// Collects what to save; `is_lazy` leaves out shards of which only the checkpoint moves.
    pub(super) fn save(&self, is_lazy: bool) -> Vec<ShardSave> {
        let mut state = self.state.lock();
        self.unsaved.store(0, Ordering::Relaxed);
        let mut saves = Vec::new();
        for owned in state.shards.values_mut().filter(|owned| !owned.is_releasing) {
            let is_release = owned.is_leaving && owned.shard.running() == 0;
            if let Some(save) = owned.shard.save(is_release, is_lazy) {
                owned.is_releasing = is_release;
                saves.push(save);
            }
        }
        saves
    }

    /// Ends a save that was made.
    pub(super) fn saved(&self, save: &ShardSave) {
        if save.is_release {
            self.forget(save.shard.number, save.epoch);
        }
    }

    /// Takes a save back that may not have been made.
    pub(super) fn unsave(&self, save: ShardSave) {
        let mut state = self.state.lock();
        let owned = state.shards.get_mut(&save.shard.number).filter(|owned| owned.shard.epoch() == save.epoch);
        if let Some(owned) = owned {
            owned.is_releasing = false;
            owned.shard.unsave(save);
        }
    }

    /// Returns `true` if all shards of the handler are here, are read up to `head`, and have nothing to do.
    pub(super) fn progress(&self, head: Position) -> LocalProgress {
        let state = self.state.lock();
        let is_idle = |owned: &OwnedShard| {
            owned.left.unread().is_none()
                && owned.shard.read() >= head
                && owned.shard.is_idle()
                && owned.shard.is_saved()
        };
        LocalProgress {
            owned: state.shards.len(),
            of: usize::from(state.shard_count),
            is_idle: state.shards.values().all(is_idle),
            newer: state.shards.values().map(|owned| owned.shard.newer()).sum(),
        }
    }

    /// Returns up to where all shards here have read the feed; `None` without a shard.
    pub(super) fn read_through(&self) -> Option<Position> {
        let of_shard = |owned: &OwnedShard| owned.left.unread().map_or(owned.shard.read(), |(after, _)| after);
        self.state.lock().shards.values().map(of_shard).min()
    }

    /// Returns `true` if an event is ready, or due.
    #[cfg(feature = "testkit")]
    pub(super) fn has_work(&self, clock: &SharedClock) -> bool {
        let (state, now) = (self.state.lock(), clock.unix_millis());
        let has_work = |owned: &OwnedShard| {
            owned.shard.ready() > 0
                || owned.shard.wait_to_run_alone().is_some()
                || owned.shard.next_due().is_some_and(|due| due <= now)
        };
        state.shards.values().any(has_work)
    }
}

impl ConsumerReport for HandlerQueue {
    fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        let state = self.state.lock();
        let events = state.size().events;
        let since = state.crowded_since.filter(|_| events >= self.spec.max_waiting)?;
        Some((events, since))
    }

    fn oldest_unfinished(&self, group: &Name) -> Option<OldestUnfinished> {
        let state = self.state.lock();
        let since = state.shards.values().filter_map(|owned| owned.shard.oldest_failure()).min()?;
        let unfinished = state.size().events as u64;
        Some(OldestUnfinished::new(group.as_str(), self.spec.name.as_str(), since, unfinished, &self.clock))
    }

    fn counts(&self) -> InFlightCounts {
        let state = self.state.lock();
        let events = state.size().events as u64;
        let (waiting, streams) = state
            .shards
            .values()
            .map(|owned| owned.shard.blocked())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        InFlightCounts::new(events, waiting, streams)
    }
}

/// How far the shards of a handler in this process are.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalProgress {
    /// The number of shards here.
    pub(super) owned: usize,
    /// The number of all shards.
    pub(super) of: usize,
    /// Set if those here have nothing to do.
    pub(super) is_idle: bool,
    /// The number of events here in a version that this program does not know.
    pub(super) newer: u64,
}

/// How long a new owner may start events after it sent a renewal, of a lease that lasts `ttl`.
pub(super) fn startable_for(ttl: Duration) -> Duration {
    ttl.mul_f64(0.9)
}
