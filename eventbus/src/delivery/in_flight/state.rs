//! The state of a consumer's in-flight entries: no tasks, no locks. [`Stage`] has the transition table.
//!
//! A *delayed* entry waits for a retry, or came behind one that does. It takes no room; the number and the bytes of delayed
//! entries have limits of their own.
//!
//! Invariant: of each ordering key only the first entry can start; the entries behind it are [`Stage::Blocked`] until
//! its disposition allows the next one. An entry is removed only once the bus has persisted its disposition, unless it
//! is nacked, left pending on the bus, or owned by a different consumer.

use std::{
    collections::{BTreeSet, HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    SuspectPermit,
    entry::{DisposedEntry, Disposition, InFlightEntry},
    read_ahead::ReadAhead,
};
use crate::{
    delivery::Outcome,
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{MessageId, attempts::DeliveryAttempts, retry::RetryPolicy, stats::InFlightCounts},
};

/// The hash of an aggregate's name. A collision only makes two aggregates wait for each other without need.
type OrderingKey = u64;

/// The estimated memory of an event beside its texts, in bytes.
const EVENT_OVERHEAD_BYTES: usize = 500;
/// While both are ready, workers start this many new entries per retry, so that many retries take little from the new
/// entries.
const NEW_ENTRIES_PER_RETRY: usize = 20;
/// The idle time after which the read-ahead window is reset.
const READ_AHEAD_RESET_AFTER: Duration = Duration::from_secs(1);
/// Entries that wait for a retry, or behind one that does, may have this many times the bytes of the others.
const WAITING_BYTES_FACTOR: usize = 16;

#[derive(Debug)]
struct StoredEntry {
    id: MessageId,
    /// `None` if the entry is no event.
    key: Option<OrderingKey>,
    stage: Stage,
    /// `None` if the entry is finished, or no event.
    body: Option<Box<EntryBody>>,
    is_delayed: bool,
    /// The entry does not start before this time.
    not_before: Instant,
    /// When a handler failed first, in milliseconds since 1970, and the handlers that failed.
    failing: Option<(u64, Arc<str>)>,
    /// For a suspect, the number of its runs during which the process ended.
    ended_alone: Option<u32>,
}

#[derive(Debug)]
struct EntryBody {
    record: RecordedEvent,
    attempts: DeliveryAttempts,
    /// The estimated memory of the event, in bytes.
    bytes: usize,
}

/// The stage of an entry.
///
/// An entry is *activated* when it becomes the first of its ordering key: it is added, or the entry before it leaves the
/// queue. When the first one begins to wait, all entries of its key are delayed.
///
/// | stage | event | next stage |
/// |---|---|---|
/// | – | `add`, was in flight, five process ends while it ran | `Finished`, still first of its key |
/// | – | `add`, else | `Blocked`, activated if it is the first of its key; delayed if the one before it is |
/// | – | `add_dead_letter` | `Finished`, without a key |
/// | `Blocked` | activated before its time | `Waiting` |
/// | `Blocked` | activated, a suspect | `Suspect` |
/// | `Blocked` | activated, else | `Ready` |
/// | `Waiting` | `expire_waits`, at its time | `Suspect` for a suspect, else `Ready` |
/// | `Suspect` | `take_permit`: it is its turn | `Beginning` |
/// | `Beginning` | `begin`: the bus has persisted the count of the run | `Ready` |
/// | `Ready` | `next_job` | `Running` |
/// | `Running` | `record_outcome`: success or no handler wants it | `Finished`; leaves its key, the next is activated |
/// | `Running` | `record_outcome`: failure with a retry | `Waiting` |
/// | `Running` | `record_outcome`: failure for good | `Finished`, still first of its key until it is a dead letter |
/// | `Running` | `record_outcome`: the group has no handlers | `Blocked`, activated |
/// | any | `release` | removed; a run of it is cancelled; if it was the first, the next is activated |
/// | all but `Finished` | `nack_unfinished` | as `release`; the begun run of a suspect is not counted |
#[derive(Debug)]
enum Stage {
    /// Behind the first entry of its ordering key.
    Blocked,
    /// Starts at its time.
    Waiting,
    /// May have ended its process, and waits for its turn.
    Suspect,
    /// The bus persists the count of the run that is about to begin.
    Beginning,
    /// Ready to run.
    Ready,
    /// A worker runs its handlers, since this time.
    Running { since: Instant, released: CancellationToken },
    /// Its disposition is not yet persisted. A dead letter stays the first of its key until it is.
    Finished { is_first: bool },
}

impl Stage {
    const fn waits_for_retry(&self) -> bool {
        matches!(self, Self::Waiting | Self::Suspect | Self::Beginning)
    }
}

/// An entry that a worker is to handle.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) attempts: DeliveryAttempts,
    pub(super) is_suspect: bool,
}

/// The entries of one ordering key, in the order they were added.
#[derive(Debug, Default)]
struct OrderingQueue {
    numbers: VecDeque<u64>,
    /// Set once an entry of the queue was redelivered: only the first of them can have been in flight at the process
    /// that ended.
    has_redelivered: bool,
}

/// The limits for the in-flight entries of a consumer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// The limit for delayed entries.
    pub(super) delayed: usize,
}

/// A number of events, and their estimated memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    count: usize,
    bytes: usize,
}

/// A change at the limit for waiting entries: when it is reached, the bus reads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingLimit {
    Reached,
    Cleared,
}

/// The turn of the consumer to run a suspect.
#[derive(Debug)]
struct HeldPermit {
    #[allow(dead_code, reason = "it is held, not read")]
    permit: SuspectPermit,
    /// The suspect.
    number: u64,
}

#[derive(Debug, Default)]
pub(super) struct InFlightState {
    bounds: Bounds,
    clock: SharedClock,
    hasher: RandomState,
    /// The entries by number, in the order they were added.
    items: HashMap<u64, StoredEntry>,
    numbers: HashMap<MessageId, u64>,
    next: u64,
    queues: HashMap<OrderingKey, OrderingQueue>,
    ready: BTreeSet<u64>,
    /// The ready entries that are delayed, the longest due first: none waits for ever behind entries that are due again
    /// and again.
    ready_delayed: BTreeSet<(Instant, u64)>,
    /// The number of new entries to start before the next delayed one, as long as there are new ones.
    new_before_retry: usize,
    waiting: BTreeSet<(Instant, u64)>,
    /// The [`Stage::Suspect`] entries, by `ended_alone`: the likely causes last.
    suspects: BTreeSet<(u32, u64)>,
    permit: Option<HeldPermit>,
    running: usize,
    /// The number of delayed entries that run.
    running_delayed: usize,
    /// The number of workers.
    workers: usize,
    /// The entries with a body that are not delayed, and those that are.
    held: Load,
    delayed: Load,
    /// When too many entries were delayed; cleared once a tenth of them is gone.
    crowded_since: Option<OffsetDateTime>,
    /// The latest change of `crowded_since`, until [`take_limit_change`](Self::take_limit_change) returns it.
    limit_change: Option<WaitingLimit>,
    read_ahead: ReadAhead,
    /// When the last delivery ended.
    last_end: Option<Instant>,
    /// The dispositions for the bus to persist, in order.
    outbox: Vec<DisposedEntry>,
}

impl InFlightState {
    pub(super) fn new(clock: SharedClock, bounds: Bounds) -> Self {
        Self { clock, bounds, ..Self::default() }
    }

    pub(super) const fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn contains(&self, id: &MessageId) -> bool {
        self.numbers.contains_key(id)
    }

    /// Returns the ids of all entries, unsorted.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.numbers.keys().cloned().collect()
    }

    /// Returns how many entries are delayed, and since when these are too many; `None` if they are not.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        Some((self.delayed.count, self.crowded_since?))
    }

    /// Returns the time of the earliest first failure among the unfinished entries, in milliseconds since 1970, and the
    /// handlers that failed.
    pub(super) fn oldest_failing(&self) -> Option<(u64, Arc<str>)> {
        self.items.values().filter_map(|item| item.failing.clone()).min()
    }

    /// Counts all entries, those that wait for a retry, and the aggregates whose later events wait for an earlier one.
    pub(super) fn counts(&self) -> InFlightCounts {
        let (mut waiting, mut blocked) = (0, 0);
        for queue in self.queues.values() {
            let first = queue.numbers.front().and_then(|number| self.items.get(number));
            let Some(StoredEntry { stage, .. }) = first else { continue };
            waiting += u64::from(stage.waits_for_retry());
            let is_stalled = stage.waits_for_retry() || matches!(stage, Stage::Finished { .. });
            blocked += u64::from(is_stalled && queue.numbers.len() > 1);
        }
        InFlightCounts::new(self.items.len() as u64, waiting, blocked)
    }

    pub(super) fn take_limit_change(&mut self) -> Option<WaitingLimit> {
        self.limit_change.take()
    }

    /// Returns the number of entries that can start now.
    pub(super) fn startable(&self) -> usize {
        self.ready.len() + self.ready_delayed.len()
    }

    /// Returns the number of dispositions in the outbox.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox.len()
    }

    /// Takes the dispositions for the bus to persist, in order.
    pub(super) fn take_disposed(&mut self) -> Vec<DisposedEntry> {
        std::mem::take(&mut self.outbox)
    }

    /// Returns how many more entries the bus should read, beside `coming` that it is about to add.
    ///
    /// The bus reads when half of the read-ahead window is gone, or when a worker is idle, even if the window is full:
    /// its entries may all be blocked. A worker on a retry counts as idle, so that retries leave room for new entries.
    /// The bus reads none while too many wait.
    pub(super) fn room(&self, coming: usize) -> usize {
        if self.crowded_since.is_some() {
            return 0;
        }
        let (workers, window) = self.read_ahead_window();
        let idle = match self.ready.len() {
            0 => workers.saturating_sub(self.running - self.running_delayed + coming),
            _ => 0,
        };
        let active = self.held.count + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = self.bounds.entries.saturating_sub(self.taking_room() + coming);
        self.fitting(window.saturating_sub(active).max(idle).min(free), coming)
    }

    /// Returns `true` if a suspect waits, and its consumer has no turn.
    pub(super) fn wants_permit(&self) -> bool {
        self.permit.is_none() && !self.suspects.is_empty()
    }

    /// Begins the turn of the suspect that is least likely to have ended its process: the bus persists the count of its run.
    pub(super) fn take_permit(&mut self, permit: SuspectPermit) {
        let Some((_, number)) = self.suspects.first().copied().filter(|_| self.permit.is_none()) else { return };
        self.permit = Some(HeldPermit { permit, number });
        self.set_stage(number, Stage::Beginning);
        if let Some(body) = self.items.get_mut(&number).and_then(|item| item.body.as_mut()) {
            body.attempts.begin(true);
            let begin = Disposition::Begin(body.attempts.clone());
            self.dispose(number, None, begin);
        }
    }

    /// Starts a suspect: the bus has persisted the count of its run.
    pub(super) fn begin(&mut self, id: &MessageId) {
        let is_beginning =
            |number: &u64| self.items.get(number).is_some_and(|item| matches!(item.stage, Stage::Beginning));
        if let Some(number) = self.numbers.get(id).copied().filter(is_beginning) {
            self.set_stage(number, Stage::Ready);
        }
    }

    /// Ends the turn of a suspect, if it has one.
    pub(super) fn release_permit(&mut self, number: u64) {
        self.permit.take_if(|held| held.number == number);
    }

    /// Returns the time at which the next entry is due; `None` if none waits.
    pub(super) fn next_wait(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Returns the number of entries that take room: all but delayed ones.
    fn taking_room(&self) -> usize {
        self.items.len() - self.delayed.count
    }

    /// Returns how many entries fit beside those that take room; at least one if none does.
    pub(super) fn free(&self) -> usize {
        let in_flight = self.taking_room();
        let fitting = self.read_ahead.fitting(self.bounds.bytes.saturating_sub(self.held.bytes));
        self.bounds.entries.saturating_sub(in_flight).min(fitting.max(usize::from(in_flight == 0)))
    }

    /// Returns the number of workers, and their read-ahead window.
    fn read_ahead_window(&self) -> (usize, usize) {
        let workers = self.workers.max(1);
        (workers, self.read_ahead.window(workers, self.bounds.entries))
    }

    /// Returns how many of the `wanted` entries fit beside `coming` more; at least one if no entry takes room.
    fn fitting(&self, wanted: usize, coming: usize) -> usize {
        if self.taking_room() + coming == 0 {
            return wanted.min(self.read_ahead.fitting(self.bounds.bytes).max(1));
        }
        let used = self.held.bytes + self.read_ahead.bytes_of(coming);
        wanted.min(self.read_ahead.fitting(self.bounds.bytes.saturating_sub(used)))
    }

    /// Returns the estimated number of entries that fit into so many bytes, at least one.
    pub(super) fn fitting_into(&self, bytes: usize) -> usize {
        self.read_ahead.fitting(bytes).max(1)
    }

    /// Moves an entry to another stage, and from the index of the former one to that of the new one.
    ///
    /// No other place may change the stage. What the indexes depend on changes only in stages without an index, or in
    /// [`delay`](Self::delay).
    fn set_stage(&mut self, number: u64, stage: Stage) {
        self.index(number, false);
        if let Some(item) = self.items.get_mut(&number) {
            item.stage = stage;
        }
        self.index(number, true);
    }

    /// Adds an entry to the index of its stage, or removes it.
    fn index(&mut self, number: u64, is_added: bool) {
        fn set<T: Ord>(index: &mut BTreeSet<T>, key: T, is_added: bool) {
            let _ = if is_added { index.insert(key) } else { index.remove(&key) };
        }
        let Some(item) = self.items.get(&number) else {
            return;
        };
        match item.stage {
            Stage::Waiting => set(&mut self.waiting, (item.not_before, number), is_added),
            Stage::Suspect => set(&mut self.suspects, (item.ended_alone.unwrap_or_default(), number), is_added),
            Stage::Ready if item.is_delayed => set(&mut self.ready_delayed, (item.not_before, number), is_added),
            Stage::Ready => set(&mut self.ready, number, is_added),
            Stage::Running { .. } => {
                count(&mut self.running, is_added);
                if item.is_delayed {
                    count(&mut self.running_delayed, is_added);
                }
            }
            Stage::Blocked | Stage::Beginning | Stage::Finished { .. } => {}
        }
    }

    fn add_body(&mut self, number: u64, record: RecordedEvent, attempts: DeliveryAttempts) {
        let bytes = memory_of(&record);
        self.read_ahead.read(bytes);
        if let Some(item) = self.items.get_mut(&number) {
            item.failing = failing(&attempts);
            item.ended_alone = attempts.is_suspect().then_some(attempts.ended_alone);
            item.body = Some(Box::new(EntryBody { record, attempts, bytes }));
            self.held.add(bytes);
        }
    }

    fn take_body(&mut self, number: u64) -> Option<Box<EntryBody>> {
        let item = self.items.get_mut(&number)?;
        let body = item.body.take()?;
        match std::mem::take(&mut item.is_delayed) {
            true => {
                self.delayed.remove(body.bytes);
                self.clear_limit();
            }
            false => self.held.remove(body.bytes),
        }
        Some(body)
    }

    /// Parks an entry that is not indexed by its stage.
    fn delay(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number).filter(|item| !item.is_delayed) else { return };
        let Some(body) = &item.body else { return };
        item.is_delayed = true;
        self.held.remove(body.bytes);
        self.delayed.add(body.bytes);
        let is_over = self.delayed.count >= self.bounds.delayed || self.delayed.bytes >= self.delayed_bytes_max();
        if is_over && self.crowded_since.is_none() {
            self.crowded_since = Some(self.clock.now());
            self.limit_change = Some(WaitingLimit::Reached);
        }
    }

    const fn delayed_bytes_max(&self) -> usize {
        self.bounds.bytes.saturating_mul(WAITING_BYTES_FACTOR)
    }

    /// Clears the limit only once a tenth of the entries is gone: else it would change with each entry.
    fn clear_limit(&mut self) {
        let is_below = |now: usize, limit: usize| now <= limit - limit.div_ceil(10);
        if is_below(self.delayed.count, self.bounds.delayed)
            && is_below(self.delayed.bytes, self.delayed_bytes_max())
            && self.crowded_since.take().is_some()
        {
            self.limit_change = Some(WaitingLimit::Cleared);
        }
    }

    fn is_delayed(&self, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| item.is_delayed)
    }

    /// Makes the first entry of an ordering key wait, and delays it with all entries behind it.
    fn delay_first(&mut self, number: u64, stage: Stage) {
        self.set_stage(number, Stage::Blocked);
        let queue = self.items.get(&number).and_then(|item| self.queues.get(&item.key?));
        // delayed entries come behind those that are not
        let numbers: Vec<_> = queue
            .into_iter()
            .flat_map(|queue| queue.numbers.iter().copied().take_while(|number| !self.is_delayed(*number)))
            .collect();
        numbers.into_iter().for_each(|number| self.delay(number));
        self.set_stage(number, stage);
    }

    /// Adds an entry. Returns `false` if it is there already.
    pub(super) fn add(&mut self, entry: InFlightEntry, now: Instant) -> bool {
        let InFlightEntry { id, record, mut attempts, is_redelivered } = entry;
        let key = self.hasher.hash_one(record.metadata().stream());
        let is_idle = self.last_end.is_some_and(|end| now.saturating_duration_since(end) > READ_AHEAD_RESET_AFTER);
        if is_idle && self.items.is_empty() {
            self.read_ahead.reset_window();
        }
        let Some(number) = self.insert(id, Some(key), Stage::Blocked, now) else {
            return false;
        };
        let disposition = self.examine_redelivered(&mut attempts, key, is_redelivered);
        if let Some(item) = self.items.get_mut(&number) {
            item.not_before = now + attempts.wait(&self.clock);
        }
        self.add_body(number, record, attempts);
        let queue = self.queues.entry(key).or_default();
        queue.has_redelivered |= is_redelivered;
        let before = queue.numbers.back().copied();
        queue.numbers.push_back(number);
        match disposition {
            Some(disposition @ Disposition::DeadLetter(_)) => return self.finish(number, disposition, true),
            Some(disposition) => self.dispose(number, None, disposition),
            None => {}
        }
        match before {
            None => self.activate(number, now),
            Some(before) if self.is_delayed(before) => self.delay(number),
            Some(_) => {}
        }
        true
    }

    /// Updates the attempts of an entry that is added, and returns the disposition to persist if its process has ended.
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
            // its process lives: a run that was counted did not end the process
            delivery_attempts.note_slow_consumer();
            return None;
        }
        if self.queues.get(&key).is_some_and(|queue| queue.has_redelivered) {
            return None; // only the first entry of an aggregate was in flight
        }
        if delivery_attempts.note_process_end(&self.clock) {
            return Some(Disposition::Retry {
                attempts: delivery_attempts.clone(),
                after: delivery_attempts.suspect_delay(),
                of_newer_release: false,
            });
        }
        delivery_attempts.give_up_after_process_ends(&self.clock);
        Some(Disposition::DeadLetter(delivery_attempts.clone()))
    }

    /// Adds an entry that becomes a dead letter at once: it is no event, or has used up its attempts. Returns `false`
    /// if it is there already.
    pub(super) fn add_dead_letter(&mut self, id: MessageId, attempts: DeliveryAttempts, now: Instant) -> bool {
        let number = self.insert(id, None, Stage::Finished { is_first: false }, now);
        number.is_some_and(|number| self.finish(number, Disposition::DeadLetter(attempts), false))
    }

    fn insert(&mut self, id: MessageId, key: Option<OrderingKey>, stage: Stage, now: Instant) -> Option<u64> {
        let Entry::Vacant(vacant) = self.numbers.entry(id.clone()) else {
            return None;
        };
        let number = *vacant.insert(self.next);
        self.next += 1;
        let (body, is_delayed, failing, ended_alone) = Default::default();
        let item = StoredEntry { id, key, stage, body, is_delayed, not_before: now, failing, ended_alone };
        self.items.insert(number, item);
        Some(number)
    }

    /// Activates the first entry of its ordering key: see the table of [`Stage`].
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get_mut(&number).filter(|item| matches!(item.stage, Stage::Blocked)) else {
            return;
        };
        if item.not_before > now {
            return self.delay_first(number, Stage::Waiting);
        }
        item.not_before = now;
        match item.ended_alone {
            Some(_) => self.delay_first(number, Stage::Suspect),
            None => self.set_stage(number, Stage::Ready),
        }
    }

    /// Returns the next entry for a worker: the ready entry that was added first, and now and then a retry; `None` if
    /// none is ready, or all `workers` run.
    /// If the entry is released while it runs, `released` is cancelled.
    pub(super) fn next_job(&mut self, workers: usize, released: &CancellationToken, now: Instant) -> Option<Job> {
        self.workers = workers;
        if self.running >= workers {
            return None;
        }
        let number = match self.ready_delayed.first() {
            Some((_, retry)) if self.new_before_retry == 0 || self.ready.is_empty() => {
                self.new_before_retry = NEW_ENTRIES_PER_RETRY;
                *retry
            }
            _ => {
                let new = *self.ready.first()?;
                self.new_before_retry = self.new_before_retry.saturating_sub(1);
                new
            }
        };
        self.set_stage(number, Stage::Running { since: now, released: released.clone() });
        let item = self.items.get(&number)?;
        let EntryBody { record, attempts, .. } = &**item.body.as_ref()?;
        let (id, record, attempts) = (item.id.clone(), record.clone(), attempts.clone());
        Some(Job { number, id, record, attempts, is_suspect: item.ended_alone.is_some() })
    }

    /// Starts the entries that have waited long enough.
    pub(super) fn expire_waits(&mut self, now: Instant) {
        while let Some((_, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            let is_suspect = self.items.get(&number).is_some_and(|item| item.ended_alone.is_some());
            self.set_stage(number, if is_suspect { Stage::Suspect } else { Stage::Ready });
        }
    }

    /// Records the outcome of a run; ignores it if the entry was released meanwhile.
    pub(super) fn record_outcome(&mut self, number: u64, outcome: Outcome, policy: &RetryPolicy, now: Instant) {
        let item = self.items.get_mut(&number);
        let Some(StoredEntry { stage: Stage::Running { since, .. }, body: Some(body), key, ended_alone, .. }) = item
        else {
            return;
        };
        let (since, key) = (*since, *key);
        let disposition = Disposition::from_outcome(outcome, &mut body.attempts, policy, &self.clock);
        self.last_end = Some(now);
        let Some(disposition) = disposition else {
            if ended_alone.is_some() {
                body.attempts.undo_begin(true, &self.clock);
            }
            self.release_permit(number);
            self.set_stage(number, Stage::Blocked);
            return self.activate(number, now);
        };
        self.release_permit(number);
        self.read_ahead.ended(now.saturating_duration_since(since), self.workers);
        match disposition {
            Disposition::Retry { ref attempts, after, .. } => {
                if let Some(item) = self.items.get_mut(&number) {
                    item.failing = failing(attempts);
                    (item.ended_alone, item.not_before) = (None, now + after);
                }
                self.dispose(number, None, disposition);
                self.delay_first(number, Stage::Waiting);
            }
            Disposition::DeadLetter(_) => drop(self.finish(number, disposition, true)),
            Disposition::Acknowledge { .. } | Disposition::Skip | Disposition::Begin(_) => {
                self.finish(number, disposition, false);
                self.leave_queue(key, number, now);
            }
        }
    }

    /// Puts the disposition of a finished entry into the outbox; returns `true`.
    fn finish(&mut self, number: u64, disposition: Disposition, is_first: bool) -> bool {
        self.set_stage(number, Stage::Finished { is_first });
        // moved, not cloned: the bus drops the record outside of our lock
        let record = self.take_body(number).map(|body| body.record);
        self.dispose(number, record, disposition);
        true
    }

    /// Puts a disposition into the outbox.
    fn dispose(&mut self, number: u64, record: Option<RecordedEvent>, disposition: Disposition) {
        if let Some(item) = self.items.get(&number) {
            self.outbox.push(DisposedEntry { id: item.id.clone(), record, disposition });
        }
    }

    /// Removes an entry, in any stage, and cancels a run of it. Returns `false` if the entry was not there.
    pub(super) fn release(&mut self, id: &MessageId, now: Instant) -> bool {
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        self.release_permit(number);
        self.index(number, false);
        self.take_body(number);
        let Some(item) = self.items.remove(&number) else {
            return false;
        };
        match item.stage {
            Stage::Finished { is_first: false } => return true, // it has left its queue
            Stage::Running { released, .. } => released.cancel(),
            _ => {}
        }
        self.leave_queue(item.key, number, now);
        true
    }

    /// Removes all entries that are not finished, also those that run, and returns their ids: an aborted run counts as
    /// none. Queues the attempts that revert the begun run of a suspect.
    pub(super) fn nack_unfinished(&mut self, now: Instant) -> Vec<MessageId> {
        let is_unfinished = |item: &&mut StoredEntry| !matches!(item.stage, Stage::Finished { .. });
        let mut ids = Vec::new();
        for item in self.items.values_mut().filter(is_unfinished) {
            ids.push(item.id.clone());
            let has_begun = matches!(item.stage, Stage::Beginning | Stage::Ready | Stage::Running { .. });
            let has_begun = has_begun && item.ended_alone.is_some();
            if let Some(body) = item.body.as_mut().filter(|_| has_begun) {
                body.attempts.undo_begin(true, &self.clock);
                let (attempts, after) = (body.attempts.clone(), Duration::ZERO);
                let disposition = Disposition::Retry { attempts, after, of_newer_release: false };
                self.outbox.push(DisposedEntry { id: item.id.clone(), record: None, disposition });
            }
        }
        for id in &ids {
            self.release(id, now);
        }
        ids
    }

    /// Takes an entry out of its queue, and activates the next one if the entry was the first.
    fn leave_queue(&mut self, key: Option<OrderingKey>, number: u64, now: Instant) {
        let Some((key, queue)) = key.and_then(|key| Some((key, self.queues.get_mut(&key)?))) else {
            return;
        };
        let Some(place) = queue.numbers.iter().position(|other| *other == number) else {
            return;
        };
        queue.numbers.remove(place);
        match queue.numbers.front().copied() {
            None => drop(self.queues.remove(&key)),
            Some(next) if place == 0 => self.activate(next, now),
            Some(_) => {}
        }
    }
}

/// Returns when a handler failed first, and the handlers that failed.
fn failing(attempts: &DeliveryAttempts) -> Option<(u64, Arc<str>)> {
    Some((attempts.first_failed_at?, attempts.handlers().into()))
}

impl Load {
    const fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    const fn remove(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes -= bytes;
    }
}

/// Counts one more, or one less.
const fn count(counter: &mut usize, is_added: bool) {
    if is_added { *counter += 1 } else { *counter -= 1 }
}

/// Returns the estimated memory of an event, in bytes.
pub(crate) fn memory_of(record: &RecordedEvent) -> usize {
    let metadata = record.metadata();
    EVENT_OVERHEAD_BYTES
        + record.payload().len()
        + metadata.aggregate_id().as_str().len()
        + metadata.attributes().as_json().len()
}
