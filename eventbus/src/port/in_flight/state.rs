//! The state of what a consumer has in hand: no tasks, no locks.
//!
//! Keep: of one aggregate only the first entry in hand is startable; the others are parked behind it until it is done
//! with. An entry leaves the hand when what became of it is written down, or when someone else has taken it over.
//!
//! What waits for a retry, and what is parked behind it, is not in flight: only its id, its aggregate and its time are
//! kept, and the bus reads event and tries again when its turn has come.
//!
//! | stage | with event and tries | next stage |
//! |---|---|---|
//! | parked | yes, or no if one before it waited | when it is the first: ready, suspect, waiting; due if it is without; parked, and without, if its aggregate is held back |
//! | waiting | no | when its time has come: due |
//! | due | no | when the bus asks what is due: reading |
//! | reading | no | when the bus has read it: ready, suspect, waiting; due again if it could not be read; waiting if put off |
//! | ready, suspect, running | yes | when it has failed: waiting, and those behind it are without |

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};

use super::{
    DisposedEntry, Disposition, DueEntry, InFlightEntry,
    read_ahead::ReadAhead,
    suspect::{NextSuspect, StartNote},
    worker_slots::WorkerSlot,
};
use crate::{
    domain::{clock::SharedClock, record::RecordedEvent, stream::StreamId},
    port::{DeliveryAttempts, MessageId, Outcome, RetryPolicy},
};

/// An aggregate, as far as order goes: two that share a number only wait for each other without need.
type OrderingKey = u64;

/// What an event takes beside its texts, about.
const EVENT_OVERHEAD_BYTES: usize = 500;
/// Of what was never delivered here before, so many entries are handled for one that was read again, as long as there are
/// both: retries, which may be many times as many as events, take little from those that do not fail.
const NEW_ENTRIES_PER_RETRY: usize = 20;
/// After how long without a delivery what comes next is shared anew.
const READ_AHEAD_RESET_AFTER: Duration = Duration::from_secs(1);

/// A map by numbers that are spread well enough as they are.
type NumberMap<T> = HashMap<u64, T, BuildHasherDefault<NumberHasher>>;

/// Takes a number as its own hash, mixed as the map looks at the highest bits too.
#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 divided by the golden ratio
    }
}

#[derive(Debug)]
struct StoredEntry {
    id: MessageId,
    key: OrderingKey,
    stage: Stage,
    /// Nothing while it waits, or is parked behind one that waits; nor when it is done with.
    body: Option<Box<EntryBody>>,
    /// When a handler failed first, in milliseconds since 1970.
    failing_since: Option<u64>,
}

/// What is read again after a wait.
#[derive(Debug)]
struct EntryBody {
    /// Nothing, if it is no event.
    record: Option<RecordedEvent>,
    attempts: DeliveryAttempts,
    /// How many bytes of memory the event takes, about.
    bytes: usize,
    /// Whether it was read again.
    is_retry: bool,
}

impl StoredEntry {
    fn dispose(&self, verdict: Disposition) -> DisposedEntry {
        let record = self.body.as_ref().and_then(|body| body.record.clone());
        DisposedEntry { id: self.id.clone(), record, disposition: verdict }
    }

    /// Takes back that a suspect is begun.
    fn undo_begin(&mut self, is_alone: bool, clock: &SharedClock) -> Option<DisposedEntry> {
        let body = self.body.as_mut()?;
        body.attempts.undo_begin(is_alone, clock);
        let delivery_attempts = body.attempts.clone();
        Some(self.dispose(Disposition::Retry { attempts: delivery_attempts, after: Duration::ZERO }))
    }

    const fn can_be_read_later(&self) -> bool {
        matches!(self.stage, Stage::Blocked | Stage::Waiting { .. })
    }

    fn ended_alone(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| body.attempts.ended_alone)
    }
}

#[derive(Debug)]
enum Stage {
    /// Behind another entry of its aggregate.
    Blocked,
    /// To be read again then.
    Waiting { until: Instant, has_waited: bool },
    /// To be read again, since this time.
    Due { since: Instant, has_waited: bool },
    /// It is being read again.
    Reading { since: Instant, has_waited: bool },
    /// To run alone.
    Suspect,
    /// A suspect of which it is being written down that it begins, alone or beside others.
    NotingStart { is_alone: bool },
    /// A suspect of which that is written down.
    StartNoted { is_alone: bool },
    /// Startable.
    Ready,
    /// A worker has it since this time.
    Running(Arc<Notify>, Instant),
    /// Done with; the next of its aggregate may run.
    Disposed,
    /// To become a dead letter; the next of its aggregate waits until it is one.
    DeadLettering,
}

/// An entry that a worker is to handle.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) attempts: DeliveryAttempts,
}

/// What a worker may do next.
#[derive(Debug)]
pub(super) enum NextJob {
    Work(Job, WorkerSlot),
    /// Nothing to do, until this time at most.
    Idle(Option<Instant>),
    /// Nothing it has a place for, until one is freed or something else is due.
    NoSlot(Option<Instant>),
}

/// The entries of one aggregate, in the order they came.
#[derive(Debug, Default)]
struct OrderingQueue {
    numbers: VecDeque<u64>,
    /// How many of them are here with their events.
    with_body: usize,
    /// Whether the first one waits for a retry, or to become a dead letter: then none of them is work for a worker.
    is_blocked: bool,
    /// Whether one of them was in flight when its process ended: then those behind it were not.
    has_suspect: bool,
}

/// How much a consumer may have at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// Whether so many entries wait that no more are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingLimit {
    Reached,
    Cleared,
}

#[derive(Debug, Default)]
pub(super) struct InFlightState {
    hasher: RandomState,
    items: NumberMap<StoredEntry>,
    numbers: HashMap<MessageId, u64>,
    queues: NumberMap<OrderingQueue>,
    /// How many entries with their events are in queues that are not held: work for the workers.
    active: usize,
    /// How many entries are here without their events, and how many may be.
    without_body: usize,
    max_without_body: usize,
    /// Since when there are too many.
    crowded_since: Option<OffsetDateTime>,
    /// That this has changed, and nobody was told yet.
    limit_change: Option<WaitingLimit>,
    running: usize,
    /// How many workers there are.
    workers: usize,
    /// The bytes of all events here.
    bytes: usize,
    read_ahead: ReadAhead,
    /// When the last delivery ended.
    last_end: Option<Instant>,
    ready: BTreeSet<u64>,
    /// The same of those that were read again, how many of these are running, and how many others are started before the
    /// next of these is.
    ready_retries: BTreeSet<u64>,
    running_retries: usize,
    new_before_retry: usize,
    /// Whether there is more to be read that is new.
    has_more: bool,
    /// Those that may run, with how often each ran alone in vain: the likely ones last.
    suspects: BTreeSet<(u32, u64)>,
    waiting: BTreeSet<(Instant, u64)>,
    /// The aggregates that are held back, and how often.
    blocked_keys: NumberMap<usize>,
    /// The handlers of those that have failed, by when they failed first and by their numbers.
    failing: BTreeMap<(u64, u64), Arc<str>>,
    /// Those that are to be read again, with since when: so none waits for ever for others that are due again and again.
    due: BTreeSet<(Instant, u64)>,
    /// How many of them are being read.
    reading: usize,
    /// How many are done with, once that is written down.
    disposed_count: usize,
    /// What is to be written down, in order.
    outbox: Vec<DisposedEntry>,
    next: u64,
    clock: SharedClock,
}

impl InFlightState {
    pub(super) fn new(clock: SharedClock, most_waiters: usize) -> Self {
        Self { clock, max_without_body: most_waiters, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// How many of them are in flight: here with their events, or not yet written down.
    pub(super) fn in_flight(&self) -> usize {
        self.items.len() - self.without_body
    }

    /// How many wait, and since when that is too many.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        Some((self.without_body, self.crowded_since?))
    }

    /// Since when the one that failed first of all does so, in milliseconds since 1970, and which handlers.
    pub(super) fn oldest_failing(&self) -> Option<(u64, Arc<str>)> {
        self.failing.first_key_value().map(|((since, _), handlers)| (*since, Arc::clone(handlers)))
    }

    /// Notes that an entry has failed and is unfinished.
    fn mark_failing(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let attempts = item.body.as_ref().map(|body| &body.attempts);
        let Some((since, delivery_attempts)) = attempts.and_then(|tries| Some((tries.first_failed_at?, tries))) else {
            return;
        };
        if let Some(before) = item.failing_since.replace(since) {
            self.failing.remove(&(before, number));
        }
        self.failing.insert((since, number), delivery_attempts.handlers().into());
    }

    /// That too many began to wait, or do so no more; handed out once.
    pub(super) fn take_limit_change(&mut self) -> Option<WaitingLimit> {
        self.limit_change.take()
    }

    fn count_without_body(&mut self) {
        self.without_body += 1;
        if self.without_body >= self.max_without_body && self.crowded_since.is_none() {
            self.crowded_since = Some(self.clock.now());
            self.limit_change = Some(WaitingLimit::Reached);
        }
    }

    /// It is over when a tenth of them is gone: else it would end and begin with each.
    fn uncount_without_body(&mut self) {
        self.without_body -= 1;
        if self.without_body <= self.max_without_body - self.max_without_body.div_ceil(10)
            && self.crowded_since.take().is_some()
        {
            self.limit_change = Some(WaitingLimit::Cleared);
        }
    }

    /// Whether a worker may find something to do, now or when a delay has passed.
    pub(super) fn has_work(&self) -> bool {
        self.startable() > 0 || !self.waiting.is_empty() || !self.suspects.is_empty() || !self.due.is_empty()
    }

    /// How many could be started now.
    pub(super) fn startable(&self) -> usize {
        self.ready.len() + self.ready_retries.len()
    }

    /// How many more entries are to be read, beside some that are about to come.
    ///
    /// More are read when half of what the workers finish in a moment is gone, or when one of them has nothing to do:
    /// what it could do may all be parked behind what others do.
    ///
    /// Nothing is read while too many wait.
    pub(super) fn room(&self, coming: usize, bounds: Bounds) -> usize {
        if self.crowded_since.is_some() {
            return 0;
        }
        let (workers, window) = self.read_ahead_window(bounds);
        // else those that are tried again one after the other would leave no room for new ones
        let are_more_again = self.reading + self.ready_retries.len() + self.due.len() > 0;
        let running_again = if are_more_again { self.running_retries } else { 0 };
        let idle = match self.ready.len() {
            0 => (workers + running_again).saturating_sub(self.running + coming),
            _ => 0,
        };
        let active = self.active.saturating_sub(self.ready_retries.len() + running_again) + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = bounds.entries.saturating_sub(self.in_flight() + self.reading + coming);
        self.fitting(window.saturating_sub(active).max(idle).min(free), self.reading + coming, bounds)
    }

    /// Whether there is something new to be started, or about to be read: at once, or as soon as it is written down that
    /// others are done with.
    fn has_new_work(&self, bounds: Bounds) -> bool {
        let is_read = || self.disposed_count > 0 || self.room(0, bounds) > 0;
        !self.ready.is_empty() || (self.has_more && self.crowded_since.is_none() && is_read())
    }

    /// Says whether there is more to be read that is new. Returns `true` if that has changed.
    pub(super) const fn set_has_more(&mut self, has_more: bool) -> bool {
        let has_changed = self.has_more != has_more;
        self.has_more = has_more;
        has_changed
    }

    /// How many of those that are due are to be read again now: a share of what is read ahead, a larger one where nothing
    /// else is to be started, as soon as half of it is gone.
    pub(super) fn due_room(&self, bounds: Bounds) -> usize {
        if self.due.is_empty() {
            return 0;
        }
        let (workers, window) = self.read_ahead_window(bounds);
        let share = match self.has_new_work(bounds) {
            false => window / 4,
            true => window / NEW_ENTRIES_PER_RETRY,
        };
        let (share, ahead) = (share.max(workers), self.reading + self.ready_retries.len());
        if ahead > share / 2 {
            return 0;
        }
        let idle = match self.startable() {
            0 => workers.saturating_sub(self.running + self.reading),
            _ => 0,
        };
        // suspects, which run one at a time, are not to take all the room
        let room = (window + share).saturating_sub(self.suspects.len() + ahead).max(idle);
        let free = bounds.entries.saturating_sub(self.in_flight() + self.reading);
        self.fitting((share - ahead).min(self.due.len()).min(room).min(free), self.reading, bounds)
    }

    /// How many fit beside what is in flight, which is never none if that is nothing.
    pub(super) fn free(&self, bounds: Bounds) -> usize {
        let in_flight = self.in_flight();
        let fitting = self.read_ahead.fitting(bounds.bytes.saturating_sub(self.bytes));
        bounds.entries.saturating_sub(in_flight).min(fitting.max(usize::from(in_flight == 0)))
    }

    /// How many workers there are, and how many entries they finish in a moment.
    pub(super) fn read_ahead_window(&self, bounds: Bounds) -> (usize, usize) {
        let workers = self.workers.max(1);
        (workers, self.read_ahead.window(workers, bounds.entries))
    }

    /// How many of those that are wanted fit in beside some that are about to come: at least one if there is nothing else.
    fn fitting(&self, wanted: usize, coming: usize, bounds: Bounds) -> usize {
        if self.in_flight() == 0 && coming == 0 {
            return wanted.min(self.read_ahead.fitting(bounds.bytes).max(1));
        }
        let coming_bytes = self.read_ahead.bytes_of(coming);
        wanted.min(self.read_ahead.fitting(bounds.bytes.saturating_sub(self.bytes).saturating_sub(coming_bytes)))
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn contains(&self, id: &MessageId) -> bool {
        self.numbers.contains_key(id)
    }

    /// The ids of all entries, unsorted.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.numbers.keys().cloned().collect()
    }

    /// What is to be written down, in order; it is handed out once.
    pub(super) fn drain(&mut self) -> Vec<DisposedEntry> {
        std::mem::take(&mut self.outbox)
    }

    /// How many wait to be written down.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox.len()
    }

    /// Takes an entry in. False: it is there already.
    pub(super) fn add(&mut self, entry: InFlightEntry, now: Instant) -> bool {
        let InFlightEntry { id, record, attempts: mut delivery_attempts, is_redelivered: is_left_over } = entry;
        if self.contains(&id) {
            return false;
        }
        let lane = self.hasher.hash_one(record.metadata().stream());
        let bytes = bytes_of(&record);
        if self.is_empty()
            && self.last_end.is_some_and(|end| now.saturating_duration_since(end) > READ_AHEAD_RESET_AFTER)
        {
            self.read_ahead.reset_window();
        }
        let disposition = self.examine_redelivered(&mut delivery_attempts, lane, is_left_over);
        let stage =
            if matches!(disposition, Some(Disposition::DeadLetter(_))) { Stage::DeadLettering } else { Stage::Blocked };
        let body =
            Some(Box::new(EntryBody { record: Some(record), attempts: delivery_attempts, bytes, is_retry: false }));
        let Some(number) = self.insert(StoredEntry { id, key: lane, stage, body, failing_since: None }) else {
            return false;
        };
        self.mark_failing(number);
        self.read_ahead.read(bytes);
        if let (Some(verdict), Some(item)) = (disposition, self.items.get(&number)) {
            self.outbox.push(item.dispose(verdict));
        }
        let queue = self.queues.entry(lane).or_default();
        let is_behind_waiters = queue.numbers.len() > queue.with_body;
        queue.numbers.push_back(number);
        queue.with_body += 1;
        queue.has_suspect |= is_left_over;
        let is_first = queue.numbers.len() == 1;
        if !queue.is_blocked {
            self.active += 1;
        }
        if is_first {
            self.activate(number, now);
        } else if is_behind_waiters {
            self.drop_body(number);
        }
        true
    }

    /// What is to be noted about an entry that is taken in, as its process has ended.
    fn examine_redelivered(
        &self,
        delivery_attempts: &mut DeliveryAttempts,
        key: OrderingKey,
        is_redelivered: bool,
    ) -> Option<Disposition> {
        if delivery_attempts.is_waiting(&self.clock) {
            return None;
        }
        if !is_redelivered {
            delivery_attempts.note_slow_consumer();
            return None;
        }
        if self.queues.get(&key).is_some_and(|queue| queue.has_suspect) {
            return None; // only the first of an aggregate is in flight
        }
        if delivery_attempts.note_process_end(&self.clock) {
            return Some(Disposition::Retry {
                attempts: delivery_attempts.clone(),
                after: delivery_attempts.suspect_delay(),
            });
        }
        delivery_attempts.give_up_after_process_ends(&self.clock);
        Some(Disposition::DeadLetter(delivery_attempts.clone()))
    }

    /// Takes in what no handler can ever handle. False: it is there already.
    pub(super) fn add_undecodable(&mut self, id: MessageId, delivery_attempts: DeliveryAttempts) -> bool {
        let body =
            Some(Box::new(EntryBody { record: None, attempts: delivery_attempts.clone(), bytes: 0, is_retry: false }));
        let item = StoredEntry { id, key: 0, stage: Stage::DeadLettering, body, failing_since: None };
        let disposed = item.dispose(Disposition::DeadLetter(delivery_attempts));
        let is_new = self.insert(item).is_some();
        if is_new {
            self.outbox.push(disposed);
        }
        is_new
    }

    fn insert(&mut self, item: StoredEntry) -> Option<u64> {
        let number = self.next;
        match self.numbers.entry(item.id.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => vacant.insert(number),
        };
        self.next += 1;
        self.bytes += item.body.as_ref().map_or(0, |body| body.bytes);
        self.items.insert(number, item);
        Some(number)
    }

    /// The first of its aggregate: may it start?
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let key = item.key;
        if self.blocked_keys.contains_key(&key) && !matches!(item.stage, Stage::DeadLettering) {
            item.stage = Stage::Blocked;
            self.set_blocked(key, true);
            return self.drop_bodies(key);
        }
        let Some(body) = &item.body else {
            item.stage = Stage::Due { since: now, has_waited: false };
            self.due.insert((now, number));
            return self.set_blocked(key, false);
        };
        if matches!(item.stage, Stage::DeadLettering) {
            return self.set_blocked(key, true); // the next of its aggregate waits until it is a dead letter
        }
        let wait = body.attempts.wait(&self.clock);
        if !wait.is_zero() {
            return self.park_until(number, now + wait);
        }
        if body.attempts.is_suspect() {
            item.stage = Stage::Suspect;
            self.suspects.insert((body.attempts.ended_alone, number));
        } else {
            item.stage = Stage::Ready;
            let ready = if body.is_retry { &mut self.ready_retries } else { &mut self.ready };
            ready.insert(number);
        }
        self.set_blocked(key, false);
    }

    /// Parks what comes of an aggregate until it is released.
    pub(super) fn block_stream(&mut self, stream: &StreamId, now: Instant) {
        let key = self.hasher.hash_one(stream);
        *self.blocked_keys.entry(key).or_default() += 1;
        if let Some(first) = self.first_of(key)
            && (self.ready.remove(&first) || self.ready_retries.remove(&first))
        {
            self.activate(first, now);
        }
    }

    /// Lets the first of an aggregate start.
    pub(super) fn unblock_stream(&mut self, stream: &StreamId, now: Instant) {
        let lane = self.hasher.hash_one(stream);
        match self.blocked_keys.get_mut(&lane) {
            Some(times) if *times > 1 => return *times -= 1,
            Some(_) => drop(self.blocked_keys.remove(&lane)),
            None => return,
        }
        if let Some(first) = self.first_of(lane)
            && self.items.get(&first).is_some_and(|item| matches!(item.stage, Stage::Blocked))
        {
            self.activate(first, now);
        }
    }

    fn first_of(&self, key: OrderingKey) -> Option<u64> {
        self.queues.get(&key)?.numbers.front().copied()
    }

    /// How many have failed and are tried again, or are parked behind one of those.
    pub(super) fn retried(&self) -> usize {
        let is_retried = |number: &u64| {
            self.items.get(number).is_some_and(|item| match &item.stage {
                Stage::Waiting { .. }
                | Stage::Due { has_waited: true, .. }
                | Stage::Reading { has_waited: true, .. } => true,
                _ => item.body.as_ref().is_some_and(|body| body.attempts.attempts > 0),
            })
        };
        let retried = self.queues.values().filter(|queue| queue.numbers.front().is_some_and(is_retried));
        retried.map(|queue| queue.numbers.len()).sum()
    }

    /// The first of its aggregate waits until then, and those behind it are parked for as long.
    fn park_until(&mut self, number: u64, until: Instant) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let key = item.key;
        item.stage = Stage::Waiting { until, has_waited: true };
        self.waiting.insert((until, number));
        self.set_blocked(key, true);
        self.drop_bodies(key);
    }

    /// Drops the events of those that are parked, and of a first one that waits: they are read again.
    fn drop_bodies(&mut self, key: OrderingKey) {
        let numbers = self.queues.get(&key).map(|queue| queue.numbers.iter().copied());
        // those that were stripped before come behind the others
        let is_whole = |number: &u64| self.items.get(number).is_some_and(|item| item.body.is_some());
        let whole: Vec<u64> = numbers.into_iter().flatten().take_while(is_whole).collect();
        for number in whole {
            self.drop_body(number);
        }
    }

    fn drop_body(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number).filter(|item| item.can_be_read_later()) else {
            return;
        };
        let Some(body) = item.body.take() else {
            return;
        };
        self.bytes -= body.bytes;
        if let Some(queue) = self.queues.get_mut(&item.key) {
            queue.with_body -= 1;
            if !queue.is_blocked {
                self.active -= 1;
            }
        }
        self.count_without_body();
    }

    /// Says whether the first of a queue waits, and with it all others.
    fn set_blocked(&mut self, key: OrderingKey, is_held: bool) {
        if let Some(queue) = self.queues.get_mut(&key)
            && queue.is_blocked != is_held
        {
            queue.is_blocked = is_held;
            match is_held {
                true => self.active -= queue.with_body,
                false => self.active += queue.with_body,
            }
        }
    }

    /// What a worker is to do: the first that came of those that may start, suspects apart, and now and then one that was
    /// read again.
    pub(super) fn next_job(
        &mut self,
        worker: &Arc<Notify>,
        slot: Option<WorkerSlot>,
        workers: usize,
        now: Instant,
        bounds: Bounds,
    ) -> NextJob {
        self.workers = workers;
        self.expire_waits(now);
        let next_due = self.waiting.first().map(|(at, _)| *at);
        let Some(worker_slot) = slot else {
            return if self.startable() == 0 { NextJob::Idle(next_due) } else { NextJob::NoSlot(next_due) };
        };
        match self.next_ready(bounds).and_then(|number| self.run(number, worker, now)) {
            Some(job) => NextJob::Work(job, worker_slot),
            None => NextJob::Idle(next_due),
        }
    }

    /// The entry that is to start next, which is ready no more; none if a new one is about to be read, whose turn it is.
    fn next_ready(&mut self, bounds: Bounds) -> Option<u64> {
        if (self.new_before_retry == 0 || !self.has_new_work(bounds))
            && let Some(again) = self.ready_retries.pop_first()
        {
            self.new_before_retry = NEW_ENTRIES_PER_RETRY;
            return Some(again);
        }
        let new = self.ready.pop_first()?;
        self.new_before_retry = self.new_before_retry.saturating_sub(1);
        Some(new)
    }

    fn run(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> Option<Job> {
        let item = self.items.get_mut(&number)?;
        let body = item.body.as_ref()?;
        let record = body.record.clone()?;
        item.stage = Stage::Running(Arc::clone(worker), now);
        self.running += 1;
        self.running_retries += usize::from(body.is_retry);
        Some(Job { number, id: item.id.clone(), record, attempts: body.attempts.clone() })
    }

    /// The suspect that is to run next: of those that may, one that ran alone in vain least often. One that did before
    /// waits until all is read that is due and that there is room for, as a less likely one may be among that: else it
    /// would end the process first, each time again.
    pub(super) fn next_suspect(&mut self, now: Instant, bounds: Bounds) -> NextSuspect {
        self.expire_waits(now);
        let is_read = self.reading == 0 && self.due_room(bounds) == 0;
        let body = |number| self.items.get(number)?.body.as_ref();
        let next = self.suspects.first().filter(|(ended_alone, _)| *ended_alone == 0 || is_read);
        match next.and_then(|(_, number)| Some((*number, body(number)?))) {
            Some((number, body)) => NextSuspect::Now(number, body.attempts.suspect_delay()),
            None => NextSuspect::Later(self.waiting.first().map(|(at, _)| *at)),
        }
    }

    /// Has it written down that a suspect begins. Returns `false` if it is in hand no more.
    pub(super) fn note_start(&mut self, number: u64, is_alone: bool) -> bool {
        let Some(item) = self.items.get_mut(&number).filter(|item| matches!(item.stage, Stage::Suspect)) else {
            return false;
        };
        self.suspects.remove(&(item.ended_alone(), number));
        item.stage = Stage::NotingStart { is_alone };
        let Some(body) = &mut item.body else {
            return false;
        };
        body.attempts.begin(is_alone);
        let begins = Disposition::Begin(body.attempts.clone());
        self.outbox.push(item.dispose(begins));
        true
    }

    /// A suspect whose beginning is written down, to be handled.
    pub(super) fn take_started(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> StartNote {
        match self.items.get(&number).map(|item| &item.stage) {
            Some(Stage::StartNoted { .. }) => {
                self.run(number, worker, now).map_or(StartNote::Released, StartNote::Started)
            }
            Some(Stage::NotingStart { .. }) => StartNote::Pending,
            _ => StartNote::Released,
        }
    }

    /// Those that have waited long enough are due.
    fn expire_waits(&mut self, now: Instant) {
        while let Some((since, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.pop_first();
            if let Some(item) = self.items.get_mut(&number)
                && let Stage::Waiting { has_waited, .. } = item.stage
            {
                let key = item.key;
                item.stage = Stage::Due { since, has_waited };
                self.due.insert((since, number));
                self.set_blocked(key, false);
            }
        }
    }

    /// What is to be read again now, those first that are due for longest; each is handed out once.
    pub(super) fn take_due(&mut self, now: Instant, bounds: Bounds) -> Vec<DueEntry> {
        self.expire_waits(now);
        let mut due_entries = Vec::new();
        for _ in 0..self.due_room(bounds) {
            let Some((_, number)) = self.due.pop_first() else { break };
            if let Some(item) = self.items.get_mut(&number)
                && let Stage::Due { since, has_waited } = item.stage
            {
                item.stage = Stage::Reading { since, has_waited };
                self.reading += 1;
                due_entries.push(DueEntry { id: item.id.clone(), has_waited });
            }
        }
        due_entries
    }

    /// An entry was read again. Returns `false` if it is not wanted any more.
    pub(super) fn resume(&mut self, entry: InFlightEntry, now: Instant) -> bool {
        let Some((number, _, has_waited)) = self.reading(&entry.id) else {
            return false;
        };
        let InFlightEntry { record, attempts: mut delivery_attempts, .. } = entry;
        if has_waited {
            delivery_attempts.next_at = None; // it has waited by our clock; another one's may differ
        }
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let (bytes, key) = (bytes_of(&record), item.key);
        item.stage = Stage::Blocked;
        item.body =
            Some(Box::new(EntryBody { record: Some(record), attempts: delivery_attempts, bytes, is_retry: true }));
        self.bytes += bytes;
        self.reading -= 1;
        self.uncount_without_body();
        self.mark_failing(number);
        self.read_ahead.read(bytes);
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.with_body += 1;
            if !queue.is_blocked {
                self.active += 1;
            }
        }
        self.activate(number, now);
        true
    }

    /// An entry could not be read again: it is still due.
    pub(super) fn not_read(&mut self, id: &MessageId) {
        if let Some((number, since, has_waited)) = self.reading(id)
            && let Some(item) = self.items.get_mut(&number)
        {
            item.stage = Stage::Due { since, has_waited };
            self.reading -= 1;
            self.due.insert((since, number));
        }
    }

    /// An entry that is being read again is put off: it is due again later.
    pub(super) fn put_off(&mut self, id: &MessageId, until: Instant) {
        if let Some((number, _, has_waited)) = self.reading(id)
            && let Some(item) = self.items.get_mut(&number)
        {
            let lane = item.key;
            item.stage = Stage::Waiting { until, has_waited };
            self.reading -= 1;
            self.waiting.insert((until, number));
            self.set_blocked(lane, true);
        }
    }

    /// An entry that is being read again, since when it was due, and whether it has waited.
    fn reading(&self, id: &MessageId) -> Option<(u64, Instant, bool)> {
        let number = *self.numbers.get(id)?;
        match self.items.get(&number)?.stage {
            Stage::Reading { since, has_waited } => Some((number, since, has_waited)),
            _ => None,
        }
    }

    /// It is written down that the entry is begun.
    pub(super) fn begin(&mut self, id: &MessageId) {
        let item = self.numbers.get(id).and_then(|number| self.items.get_mut(number));
        if let Some(item) = item
            && let Stage::NotingStart { is_alone } = item.stage
        {
            item.stage = Stage::StartNoted { is_alone };
        }
    }

    /// Whether a worker still has the entry.
    pub(super) fn is_running(&self, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| matches!(item.stage, Stage::Running(..)))
    }

    /// A worker has handled an entry. Returns `true` if something is to be written down; nothing happens if someone else
    /// has taken the entry over meanwhile.
    pub(super) fn record_outcome(&mut self, number: u64, outcome: Outcome, policy: &RetryPolicy, now: Instant) -> bool {
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let Stage::Running(_, since) = item.stage else {
            return false;
        };
        self.running -= 1;
        self.last_end = Some(now);
        let Some(body) = &mut item.body else {
            return false;
        };
        self.running_retries -= usize::from(body.is_retry);
        let Some(verdict) = Disposition::from_outcome(outcome, &mut body.attempts, policy, &self.clock) else {
            if body.attempts.is_suspect() {
                body.attempts.note_slow_consumer();
                item.stage = Stage::Suspect;
                self.suspects.insert((body.attempts.ended_alone, number));
            } else {
                item.stage = Stage::Ready;
                let ready = if body.is_retry { &mut self.ready_retries } else { &mut self.ready };
                ready.insert(number);
            }
            return false;
        };
        self.read_ahead.ended(now.saturating_duration_since(since), self.workers);
        let key = item.key;
        match verdict {
            Disposition::Retry { after, .. } => {
                self.outbox.push(DisposedEntry { id: item.id.clone(), record: None, disposition: verdict });
                self.mark_failing(number);
                self.park_until(number, now + after);
            }
            Disposition::DeadLetter(_) => {
                item.stage = Stage::DeadLettering;
                self.outbox.push(item.dispose(verdict));
                self.set_blocked(key, true);
            }
            _ => {
                // nobody needs the record here any more, and whoever gets it drops it outside of our lock
                let (record, bytes) = (body.record.take(), body.bytes);
                self.outbox.push(DisposedEntry { id: item.id.clone(), record, disposition: verdict });
                item.stage = Stage::Disposed;
                self.disposed_count += 1;
                item.body = None;
                self.bytes -= bytes;
                self.leave_queue(key, number, true, now);
            }
        }
        true
    }

    /// Has an entry handled that was skipped, unless it was let go since: before the others of its aggregate of which none
    /// was started.
    pub(super) fn handle_skipped(&mut self, skipped: DisposedEntry, now: Instant) {
        let DisposedEntry { id, record: Some(record), disposition: Disposition::Skip(tries) } = skipped else {
            return;
        };
        let number = self.numbers.get(&id).copied();
        let Some((number, item)) = number.and_then(|number| Some((number, self.items.get_mut(&number)?))) else {
            return;
        };
        if !matches!(item.stage, Stage::Disposed) {
            return;
        }
        let (key, bytes) = (item.key, bytes_of(&record));
        item.stage = Stage::Blocked;
        item.body = Some(Box::new(EntryBody { record: Some(record), attempts: tries, bytes, is_retry: false }));
        self.bytes += bytes;
        self.disposed_count -= 1;
        let first = self.first_of(key);
        let is_before = first.is_none_or(|first| self.ready.remove(&first) || self.ready_retries.remove(&first));
        if is_before && let Some(first) = first.and_then(|first| self.items.get_mut(&first)) {
            first.stage = Stage::Blocked;
        }
        let queue = self.queues.entry(key).or_default();
        let is_behind_waiters = queue.numbers.len() > queue.with_body;
        queue.numbers.insert(usize::from(!is_before), number);
        queue.with_body += 1;
        if !queue.is_blocked {
            self.active += 1;
        }
        if is_before {
            self.activate(number, now);
        } else if is_behind_waiters {
            self.drop_body(number);
        }
    }

    /// Lets an entry go, whatever its stage; a worker that has it is told. False: it was not there.
    pub(super) fn remove(&mut self, id: &MessageId, now: Instant) -> bool {
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        let Some(item) = self.items.remove(&number) else {
            return false;
        };
        if let Some(since) = item.failing_since {
            self.failing.remove(&(since, number));
        }
        if matches!(item.stage, Stage::Disposed) {
            self.disposed_count -= 1;
            return true; // it has left its lane
        }
        match &item.body {
            Some(body) => self.bytes -= body.bytes,
            None => self.uncount_without_body(),
        }
        let (is_whole, ended_alone) = (item.body.is_some(), item.ended_alone());
        let is_again = item.body.as_ref().is_some_and(|body| body.is_retry);
        match item.stage {
            Stage::Running(worker, _) => {
                self.running -= 1;
                self.running_retries -= usize::from(is_again);
                worker.notify_one();
            }
            Stage::Waiting { until, .. } => drop(self.waiting.remove(&(until, number))),
            Stage::Ready if is_again => drop(self.ready_retries.remove(&number)),
            Stage::Ready => drop(self.ready.remove(&number)),
            Stage::Suspect => drop(self.suspects.remove(&(ended_alone, number))),
            Stage::Due { since, .. } => drop(self.due.remove(&(since, number))),
            Stage::Reading { .. } => self.reading -= 1,
            Stage::Blocked
            | Stage::NotingStart { .. }
            | Stage::StartNoted { .. }
            | Stage::DeadLettering
            | Stage::Disposed => {}
        }
        self.leave_queue(item.key, number, is_whole, now);
        true
    }

    /// Lets go of everything that is neither being handled nor done with. Of a suspect that was to be begun it is not
    /// written down any more, or written down that it was not.
    pub(super) fn remove_idle(&mut self, which: impl Fn(&MessageId) -> bool) -> Vec<MessageId> {
        let is_busy =
            |item: &StoredEntry| matches!(item.stage, Stage::Running(..) | Stage::Disposed | Stage::DeadLettering);
        let is_idle = |item: &&StoredEntry| !is_busy(item) && which(&item.id);
        let ids: Vec<_> = self.items.values().filter(is_idle).map(|item| item.id.clone()).collect();
        let mut not_begun = HashMap::new();
        for item in self.items.values_mut().filter(|item| which(&item.id)) {
            if let Stage::NotingStart { is_alone } | Stage::StartNoted { is_alone } = item.stage {
                not_begun
                    .extend(item.undo_begin(is_alone, &self.clock).map(|disposed| (disposed.id.clone(), disposed)));
            }
        }
        let now = self.clock.instant();
        for id in &ids {
            self.remove(id, now);
        }
        self.outbox.retain(|disposed_entry| {
            let is_begin = matches!(disposed_entry.disposition, Disposition::Begin(_));
            !is_begin || not_begun.remove(&disposed_entry.id).is_none()
        });
        self.outbox.extend(not_begun.into_values());
        ids
    }

    /// The entry does not hold up others of its aggregate any more.
    fn leave_queue(&mut self, key: OrderingKey, number: u64, is_whole: bool, now: Instant) {
        let Some(queue) = self.queues.get_mut(&key) else {
            return;
        };
        let was_first = queue.numbers.front() == Some(&number);
        if was_first {
            queue.numbers.pop_front();
        } else if let Some(slot) = queue.numbers.iter().position(|other| *other == number) {
            queue.numbers.remove(slot);
        } else {
            return; // what is no event has no aggregate
        }
        if is_whole {
            queue.with_body -= 1;
            if !queue.is_blocked {
                self.active -= 1;
            }
        }
        match queue.numbers.front().copied() {
            None => drop(self.queues.remove(&key)),
            Some(next) if was_first => self.activate(next, now),
            Some(_) => {}
        }
    }
}

/// How many bytes of memory an event takes, about.
fn bytes_of(record: &RecordedEvent) -> usize {
    let metadata = record.metadata();
    EVENT_OVERHEAD_BYTES
        + record.payload().len()
        + metadata.aggregate_id().as_str().len()
        + metadata.attributes().as_json().len()
}
