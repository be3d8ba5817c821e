//! The state of a consumer's in-flight entries: no tasks, no locks. [`Stage`] has the transition table.
//!
//! A *bodiless* entry waits for a retry, or is blocked behind one that does. It has no body: only id, ordering key and time
//! stay in memory, and the bus reads event and attempts again when it is due. It takes no room.
//!
//! Invariant: of each ordering key only the first entry can start; the entries behind it are [`Stage::Blocked`] until
//! its disposition allows the next one. An entry is removed only once the bus has persisted its disposition, unless it
//! is nacked, left pending on the bus, owned by a different consumer, or cannot be read again.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    SuspectPermit,
    entry::{DisposedEntry, Disposition, DueEntry, InFlightEntry},
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

#[derive(Debug)]
struct StoredEntry {
    id: MessageId,
    /// `None` if the entry is no event.
    key: Option<OrderingKey>,
    stage: Stage,
    /// `None` if the entry is bodiless, or finished.
    body: Option<Box<EntryBody>>,
    /// The entry does not start before this time.
    not_before: Instant,
    /// When a handler failed first, in milliseconds since 1970, and the handlers that failed.
    failing: Option<(u64, Arc<str>)>,
    /// For a suspect, the number of its runs during which the process ended.
    ended_alone: Option<u32>,
}

/// The part of an entry that the bus reads again after a wait.
#[derive(Debug)]
struct EntryBody {
    record: RecordedEvent,
    attempts: DeliveryAttempts,
    /// The estimated memory of the event, in bytes.
    bytes: usize,
    /// Set if the bus has read the entry again.
    is_retry: bool,
}

/// The stage of an entry.
///
/// An entry is *activated* when it becomes the first of its ordering key: it is added, or the entry before it leaves the
/// queue. When the first one begins to wait, all entries of its key are bodiless.
///
/// | stage | event | next stage |
/// |---|---|---|
/// | – | `add`, was in flight, five process ends while it ran | `Finished`, still first of its key |
/// | – | `add`, else | `Blocked`, activated if it is the first of its key; bodiless if the one before it is |
/// | – | `add_dead_letter` | `Finished`, without a key |
/// | `Blocked` | activated before its time | `Waiting` |
/// | `Blocked` | activated, bodiless or a suspect | `Due` |
/// | `Blocked` | activated, else | `Ready` |
/// | `Waiting` | `expire_waits`, at its time | `Due` |
/// | `Due` | `take_due`, its disposition not in the outbox; for a suspect: it is its turn | `Reading` |
/// | `Reading` | `resume` | `Ready` |
/// | `Reading` | `return_due` | `Due` |
/// | `Reading` | `postpone` | `Waiting` |
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
    /// The bus reads it again at its time.
    Waiting,
    /// Ready to be read again.
    Due,
    /// The bus is reading it again.
    Reading,
    /// Ready to run.
    Ready,
    /// A worker runs its handlers, since this time.
    Running { since: Instant, released: CancellationToken },
    /// Its disposition is not yet persisted. A dead letter stays the first of its key until it is.
    Finished { is_first: bool },
}

impl Stage {
    const fn waits_for_retry(&self) -> bool {
        matches!(self, Self::Waiting | Self::Due | Self::Reading)
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
    /// The limit for bodiless entries.
    pub(super) bodiless: usize,
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
    /// The suspect; `None` until the bus reads one again.
    number: Option<u64>,
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
    /// The ready entries that were read again: retries.
    ready_retries: BTreeSet<u64>,
    /// The number of new entries to start before the next retry, as long as there are new ones.
    new_before_retry: usize,
    waiting: BTreeSet<(Instant, u64)>,
    /// The [`Stage::Due`] entries, the longest due first: none waits for ever behind entries that are due again and
    /// again.
    due: BTreeSet<(Instant, u64)>,
    /// The [`Stage::Due`] entries that are suspects, by `ended_alone`: the likely causes last.
    suspects: BTreeSet<(u32, u64)>,
    permit: Option<HeldPermit>,
    /// The number of [`Stage::Reading`] entries.
    reading: usize,
    running: usize,
    /// The number of retries that run.
    running_retries: usize,
    /// The number of workers.
    workers: usize,
    /// The number of entries with a body, and of those that were read again.
    bodies: usize,
    retry_bodies: usize,
    /// The estimated memory of all bodies.
    bytes: usize,
    bodiless: usize,
    /// When `bodiless` reached its limit; cleared once a tenth of them is gone.
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

    /// Returns how many entries are bodiless, and since when these are too many; `None` if they are not.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        Some((self.bodiless, self.crowded_since?))
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
        self.ready.len() + self.ready_retries.len()
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
            0 => workers.saturating_sub(self.running - self.running_retries + coming),
            _ => 0,
        };
        let active = self.bodies - self.retry_bodies + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = self.bounds.entries.saturating_sub(self.taking_room() + coming);
        self.fitting(window.saturating_sub(active).max(idle).min(free), coming)
    }

    /// Returns how many due entries the bus should read again now, beside a suspect: a share of the read-ahead window,
    /// larger if no new entry is ready, as soon as half of that share is used up.
    fn due_room(&self) -> usize {
        let (workers, window) = self.read_ahead_window();
        let share = if self.ready.is_empty() { window / 4 } else { window / NEW_ENTRIES_PER_RETRY }.max(workers);
        let ahead = self.reading + self.ready_retries.len();
        if self.due.is_empty() || ahead > share / 2 {
            return 0;
        }
        let free = self.bounds.entries.saturating_sub(self.taking_room());
        self.fitting((share - ahead).min(self.due.len()).min(free), 0)
    }

    /// Returns `true` if it is the turn of a suspect that is due.
    fn has_permit(&self) -> bool {
        self.permit.as_ref().is_some_and(|held| held.number.is_none()) && !self.suspects.is_empty()
    }

    /// Returns `true` if the bus should read entries again.
    pub(super) fn has_due(&self) -> bool {
        self.has_permit() || self.due_room() > 0
    }

    /// Returns `true` if a suspect is due, and its consumer has no turn.
    pub(super) fn wants_permit(&self) -> bool {
        self.permit.is_none() && !self.suspects.is_empty()
    }

    pub(super) fn take_permit(&mut self, permit: SuspectPermit) {
        if self.wants_permit() {
            self.permit = Some(HeldPermit { permit, number: None });
        }
    }

    /// Ends the turn of a suspect, if it has one.
    pub(super) fn release_permit(&mut self, number: u64) {
        self.permit.take_if(|held| held.number == Some(number));
    }

    /// Returns the time at which the next entry is due; `None` if none waits.
    pub(super) fn next_wait(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// Returns the number of entries that take room: those with a body, to be read, or not yet persisted.
    fn taking_room(&self) -> usize {
        self.items.len() - self.bodiless + self.reading
    }

    /// Returns how many entries fit beside those that take room; at least one if none does.
    pub(super) fn free(&self) -> usize {
        let in_flight = self.items.len() - self.bodiless;
        let fitting = self.read_ahead.fitting(self.bounds.bytes.saturating_sub(self.bytes));
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
        let used = self.bytes + self.read_ahead.bytes_of(coming + self.reading);
        wanted.min(self.read_ahead.fitting(self.bounds.bytes.saturating_sub(used)))
    }

    /// Returns the estimated number of entries that fit into so many bytes, at least one.
    pub(super) fn fitting_into(&self, bytes: usize) -> usize {
        self.read_ahead.fitting(bytes).max(1)
    }

    /// Moves an entry to another stage, and from the index of the former one to that of the new one.
    ///
    /// No other place may change the stage. What the indexes depend on does not change in such a stage: `not_before`,
    /// `ended_alone`, `is_retry`.
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
        let is_retry = item.body.as_ref().is_some_and(|body| body.is_retry);
        match item.stage {
            Stage::Waiting => set(&mut self.waiting, (item.not_before, number), is_added),
            Stage::Due => match item.ended_alone {
                Some(ended_alone) => set(&mut self.suspects, (ended_alone, number), is_added),
                None => set(&mut self.due, (item.not_before, number), is_added),
            },
            Stage::Reading => count(&mut self.reading, is_added),
            Stage::Ready if is_retry => set(&mut self.ready_retries, number, is_added),
            Stage::Ready => set(&mut self.ready, number, is_added),
            Stage::Running { .. } => {
                count(&mut self.running, is_added);
                if is_retry {
                    count(&mut self.running_retries, is_added);
                }
            }
            Stage::Blocked | Stage::Finished { .. } => {}
        }
    }

    fn add_body(&mut self, number: u64, record: RecordedEvent, attempts: DeliveryAttempts, is_retry: bool) {
        let bytes = memory_of(&record);
        self.read_ahead.read(bytes);
        if let Some(item) = self.items.get_mut(&number) {
            item.failing = failing(&attempts);
            item.ended_alone = attempts.is_suspect().then_some(attempts.ended_alone);
            item.body = Some(Box::new(EntryBody { record, attempts, bytes, is_retry }));
            self.bytes += bytes;
            self.bodies += 1;
            self.retry_bodies += usize::from(is_retry);
        }
    }

    fn take_body(&mut self, number: u64) -> Option<Box<EntryBody>> {
        let body = self.items.get_mut(&number)?.body.take()?;
        self.bytes -= body.bytes;
        self.bodies -= 1;
        self.retry_bodies -= usize::from(body.is_retry);
        Some(body)
    }

    /// Drops the body of an entry: the bus reads it again.
    fn make_bodiless(&mut self, number: u64) {
        if self.take_body(number).is_none() {
            return;
        }
        self.bodiless += 1;
        if self.bodiless >= self.bounds.bodiless && self.crowded_since.is_none() {
            self.crowded_since = Some(self.clock.now());
            self.limit_change = Some(WaitingLimit::Reached);
        }
    }

    /// Clears the limit only once a tenth of the entries is gone: else it would change with each entry.
    fn unpark(&mut self) {
        self.bodiless -= 1;
        if self.bodiless <= self.bounds.bodiless - self.bounds.bodiless.div_ceil(10)
            && self.crowded_since.take().is_some()
        {
            self.limit_change = Some(WaitingLimit::Cleared);
        }
    }

    fn is_bodiless(&self, number: u64) -> bool {
        let item = self.items.get(&number);
        item.is_some_and(|item| item.body.is_none() && !matches!(item.stage, Stage::Finished { .. }))
    }

    /// Makes the first entry of an ordering key wait or due, and parks it with all entries behind it.
    fn park_first(&mut self, number: u64, stage: Stage) {
        self.set_stage(number, stage);
        let queue = self.items.get(&number).and_then(|item| self.queues.get(&item.key?));
        // entries without a body come behind those with one
        let with_body = |number: &u64| self.items.get(number).is_some_and(|item| item.body.is_some());
        let numbers: Vec<_> =
            queue.into_iter().flat_map(|queue| queue.numbers.iter().copied().take_while(with_body)).collect();
        numbers.into_iter().for_each(|number| self.make_bodiless(number));
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
        self.add_body(number, record, attempts, false);
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
            Some(before) if self.is_bodiless(before) => self.make_bodiless(number),
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
        let item = StoredEntry { id, key, stage, body: None, not_before: now, failing: None, ended_alone: None };
        self.items.insert(number, item);
        Some(number)
    }

    /// Activates the first entry of its ordering key: see the table of [`Stage`].
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get_mut(&number).filter(|item| matches!(item.stage, Stage::Blocked)) else {
            return;
        };
        if item.not_before > now {
            return self.park_first(number, Stage::Waiting);
        }
        item.not_before = now;
        if item.body.is_none() || item.ended_alone.is_some() {
            return self.park_first(number, Stage::Due);
        }
        self.set_stage(number, Stage::Ready);
    }

    /// Returns the next entry for a worker: the ready entry that was added first, and now and then a retry; `None` if
    /// none is ready, or all `workers` run.
    /// If the entry is released while it runs, `released` is cancelled.
    pub(super) fn next_job(&mut self, workers: usize, released: &CancellationToken, now: Instant) -> Option<Job> {
        self.workers = workers;
        if self.running >= workers {
            return None;
        }
        let number = match self.ready_retries.first() {
            Some(retry) if self.new_before_retry == 0 || self.ready.is_empty() => {
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

    /// Makes the entries due that have waited long enough.
    pub(super) fn expire_waits(&mut self, now: Instant) {
        while let Some((_, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.set_stage(number, Stage::Due);
        }
    }

    /// Returns the entries that the bus must read again now, the longest due first, each once. One whose disposition is
    /// still in the outbox stays due: the bus has not persisted the attempts that it would read.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<DueEntry> {
        self.expire_waits(now);
        let in_outbox: HashSet<&MessageId> = self.outbox.iter().map(|disposed| &disposed.id).collect();
        let is_persisted = |number: &u64| self.items.get(number).is_some_and(|item| !in_outbox.contains(&item.id));
        let mut numbers: Vec<u64> =
            self.due.iter().map(|(_, number)| *number).filter(is_persisted).take(self.due_room()).collect();
        let suspect = self.suspects.iter().map(|(_, number)| *number).find(is_persisted);
        if let Some(suspect) = suspect
            && let Some(held) = self.permit.as_mut().filter(|held| held.number.is_none())
        {
            held.number = Some(suspect);
            numbers.push(suspect);
        }
        numbers.iter().for_each(|number| self.set_stage(*number, Stage::Reading));
        let due_entry = |number: u64| {
            let StoredEntry { id, ended_alone, .. } = self.items.get(&number)?;
            Some(DueEntry { id: id.clone(), ended_alone: ended_alone.map(|ended| ended + 1) })
        };
        numbers.into_iter().filter_map(due_entry).collect()
    }

    /// Resumes an entry that the bus has read again, unless it is not [`Stage::Reading`] any more.
    pub(super) fn resume(&mut self, entry: InFlightEntry) {
        if let Some(number) = self.reading(&entry.id) {
            self.set_stage(number, Stage::Blocked);
            self.add_body(number, entry.record, entry.attempts, true);
            self.unpark();
            self.set_stage(number, Stage::Ready);
        }
    }

    /// Returns an entry that the bus could not read again: it is still due.
    pub(super) fn return_due(&mut self, id: &MessageId) {
        if let Some(number) = self.reading(id) {
            self.release_permit(number);
            self.set_stage(number, Stage::Due);
        }
    }

    /// Postpones an entry that the bus cannot read again yet.
    pub(super) fn postpone(&mut self, id: &MessageId, until: Instant) {
        if let Some(number) = self.reading(id)
            && let Some(item) = self.items.get_mut(&number)
        {
            item.not_before = until;
            self.release_permit(number);
            self.set_stage(number, Stage::Waiting);
        }
    }

    /// Returns the number of an entry that is being read again.
    fn reading(&self, id: &MessageId) -> Option<u64> {
        let number = *self.numbers.get(id)?;
        matches!(self.items.get(&number)?.stage, Stage::Reading).then_some(number)
    }

    /// Records the outcome of a run; ignores it if the entry was released meanwhile.
    pub(super) fn record_outcome(&mut self, number: u64, outcome: Outcome, policy: &RetryPolicy, now: Instant) {
        let item = self.items.get_mut(&number);
        let Some(StoredEntry { stage: Stage::Running { since, .. }, body: Some(body), key, .. }) = item else {
            return;
        };
        let (since, key) = (*since, *key);
        let disposition = Disposition::from_outcome(outcome, &mut body.attempts, policy, &self.clock);
        self.last_end = Some(now);
        self.release_permit(number);
        let Some(disposition) = disposition else {
            self.set_stage(number, Stage::Blocked);
            return self.activate(number, now);
        };
        self.read_ahead.ended(now.saturating_duration_since(since), self.workers);
        match disposition {
            Disposition::Retry { ref attempts, after, .. } => {
                if let Some(item) = self.items.get_mut(&number) {
                    item.failing = failing(attempts);
                    (item.ended_alone, item.not_before) = (None, now + after);
                }
                self.dispose(number, None, disposition);
                self.park_first(number, Stage::Waiting);
            }
            Disposition::DeadLetter(_) => drop(self.finish(number, disposition, true)),
            Disposition::Acknowledge { .. } | Disposition::Skip => {
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
        if self.is_bodiless(number) {
            self.unpark();
        }
        self.index(number, false);
        if self.suspects.is_empty() {
            self.permit.take_if(|held| held.number.is_none());
        }
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
            let has_begun = matches!(item.stage, Stage::Ready | Stage::Running { .. }) && item.ended_alone.is_some();
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
