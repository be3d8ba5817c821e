//! The state of a consumer's in-flight entries: no tasks, no locks. [`Stage`] has the transition table.
//!
//! Entries that wait for a retry, and those blocked behind them, have no body: only id, ordering key and time stay in
//! memory, and the bus reads event and attempts again when they are due. They take no room.
//!
//! Invariant: of each ordering key only the first entry can start; the entries behind it are [`Stage::Blocked`] until
//! its disposition allows the next one. An entry is removed only once the bus has persisted its disposition, unless it
//! is nacked, left pending on the bus, owned by a different consumer, or cannot be read again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};

use super::{
    entry::{DisposedEntry, Disposition, DueEntry, InFlightEntry},
    read_ahead::ReadAhead,
    worker_slots::WorkerSlot,
};
use crate::{
    delivery::Outcome,
    domain::{clock::SharedClock, record::RecordedEvent, stream::StreamId},
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

/// A map keyed by entry numbers, or by ordering keys, which are hashed already: no client chooses these keys, so the
/// map needs no keyed hash.
type NumberMap<T> = HashMap<u64, T, BuildHasherDefault<NumberHasher>>;

/// Hashes a number by one multiplication, as the map uses its highest bits too.
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
    /// `None` if the bus must read the entry again, as it waited, `block_stream` blocked its key, or an entry of its
    /// key had no body; also once it is [`Stage::Disposed`].
    body: Option<Box<EntryBody>>,
    /// When a handler failed first, in milliseconds since 1970.
    failing_since: Option<u64>,
}

/// The part of an entry that the bus reads again after a wait.
#[derive(Debug)]
struct EntryBody {
    /// `None` if the entry is no event.
    record: Option<RecordedEvent>,
    attempts: DeliveryAttempts,
    /// The estimated memory of the event, in bytes.
    bytes: usize,
    /// Set if the bus has read the entry again.
    is_retry: bool,
}

impl EntryBody {
    fn new(record: RecordedEvent, attempts: DeliveryAttempts, is_retry: bool) -> Option<Box<Self>> {
        Some(Box::new(Self { bytes: memory_of(&record), record: Some(record), attempts, is_retry }))
    }
}

impl StoredEntry {
    fn dispose(&self, disposition: Disposition) -> DisposedEntry {
        let record = self.body.as_ref().and_then(|body| body.record.clone());
        DisposedEntry { id: self.id.clone(), record, disposition }
    }

    /// Undoes the begin of a suspect, and returns the attempts for the bus to persist.
    fn undo_begin(&mut self, is_alone: bool, clock: &SharedClock) -> Option<DisposedEntry> {
        let body = self.body.as_mut()?;
        body.attempts.undo_begin(is_alone, clock);
        let (attempts, after) = (body.attempts.clone(), Duration::ZERO);
        Some(self.dispose(Disposition::Retry { attempts, after, of_newer_release: false }))
    }

    fn ended_alone(&self) -> u32 {
        self.body.as_ref().map_or(0, |body| body.attempts.ended_alone)
    }

    fn is_retry(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_retry)
    }
}

/// The stage of an entry.
///
/// An entry is *activated* when it becomes the first of its ordering key: it is added or read again, or the entry
/// before it leaves the queue. The first one is activated again when its run ends without handlers, or when its key is
/// blocked or unblocked. Of the rows that fit, the first applies.
///
/// When `add` gets a redelivered entry that was in flight, and that does not become a dead letter, it also puts
/// [`Disposition::Retry`] with the process end into the outbox: the entry waits, is due and is read again before it is
/// a `Suspect`.
///
/// | stage | event | next stage |
/// |---|---|---|
/// | – | `add`, was in flight, five process ends while it ran alone | `DeadLettering`; blocks its key once first |
/// | – | `add`, behind another entry of its key | `Blocked`; without body if one before it has none |
/// | – | `add`, as the first of its key | `Blocked`, then activated |
/// | – | `add_dead_letter` | `DeadLettering`, without a key |
/// | `Blocked` | activated, key in `blocked_keys` | `Blocked`; its key loses all bodies |
/// | `Blocked` | activated, without body | `Due`, has not waited |
/// | `Blocked` | activated, before its retry time | `Waiting`; its key loses all bodies |
/// | `Blocked` | activated, in flight when its process ended | `Suspect` |
/// | `Blocked` | activated, else | `Ready` |
/// | `Blocked` | `unblock_stream`, as the first of its key | activated |
/// | `Ready`, `Suspect` | `block_stream` | `Blocked`; its key loses all bodies |
/// | `Blocked`, `Ready`, `Suspect` | `handle_skipped` puts an entry before it | `Blocked` |
/// | `Due`, `Reading`, `Waiting`, `has_waited: false` | `handle_skipped` puts an entry before it | `Blocked` |
/// | `Ready` | `next_job` | `Running` |
/// | `Waiting` | `expire_waits`, at its time | `Due` |
/// | `Due` | `take_due`, its disposition not in the outbox | `Reading` |
/// | `Reading` | `resume` | `Blocked` with body, then activated |
/// | `Reading` | `return_due` | `Due`, since the same time |
/// | `Reading` | `postpone` | `Waiting` |
/// | `Suspect` | `note_start` | `NotingStart`; [`Disposition::Begin`] goes to the outbox |
/// | `NotingStart` | `begin`: the bus has persisted that | `StartNoted` |
/// | `StartNoted` | `take_started` | `Running` |
/// | `Running` | `record_outcome`: success or no handler wants it | `Disposed`; leaves its key, the next is activated |
/// | `Running` | `record_outcome`: failure with a retry | `Waiting`; its key loses all bodies |
/// | `Running` | `record_outcome`: failure for good | `DeadLettering`; blocks its key |
/// | `Running` | `record_outcome`: the group has no handlers | activated, as a `Blocked` one |
/// | `Disposed` | `handle_skipped`, first of its key or before one that was not started | `Blocked`, then activated |
/// | `Disposed` | `handle_skipped`, else | `Blocked` as the second; without body if one of its key has none |
/// | any | `release` | removed; the worker of a `Running` one is notified; if it was the first, the next is activated |
/// | all but `Running`, `Disposed`, `DeadLettering` | `nack_idle_if` | as `release`; reverts a begin |
/// | all but `Disposed`, `DeadLettering` | `nack_unfinished` | as `release`; reverts a begin |
#[derive(Debug)]
enum Stage {
    /// Behind the first entry of its ordering key, or its key is in `blocked_keys`.
    Blocked,
    /// The bus reads it again after `until`; for `has_waited` see [`DueEntry`].
    Waiting { until: Instant, has_waited: bool },
    /// Ready to be read again, since this time.
    Due { since: Instant, has_waited: bool },
    /// The bus is reading it again.
    Reading { since: Instant, has_waited: bool },
    /// Ready to run alone.
    Suspect,
    /// A suspect that begins, alone or beside other deliveries; the bus has not persisted that yet.
    NotingStart { is_alone: bool },
    /// A suspect that begins; the bus has persisted that.
    StartNoted { is_alone: bool },
    /// Ready to run.
    Ready,
    /// A worker runs its handlers, since this time; `is_alone` if it is a suspect that began alone.
    Running { worker: Arc<Notify>, since: Instant, is_alone: bool },
    /// Finished, not yet persisted; the next of its ordering key may run.
    Disposed,
    /// Not yet a dead letter; the next of its ordering key waits until it is one.
    DeadLettering,
}

impl Stage {
    /// Returns `true` from a failure until the entry has been read again.
    const fn waits_for_retry(&self) -> bool {
        matches!(
            self,
            Self::Waiting { .. } | Self::Due { has_waited: true, .. } | Self::Reading { has_waited: true, .. }
        )
    }
}

/// An entry that a worker is to handle.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    pub(super) attempts: DeliveryAttempts,
}

/// The suspect that runs next, or the time to wait for one.
#[derive(Debug)]
pub(super) enum NextSuspect {
    /// This suspect may run: alone if all other deliveries end within `delay`, else beside them. `has_ended_alone` is
    /// set if its process ended while it ran alone.
    Now { number: u64, delay: Duration, has_ended_alone: bool },
    /// No suspect may run, until this time at most.
    Later(Option<Instant>),
}

/// The state of a suspect that the bus must persist as begun.
#[derive(Debug)]
pub(super) enum StartNote {
    /// The bus has persisted it.
    Started(Job),
    /// The bus has not persisted it yet.
    Pending,
    /// The entry is not in flight any more.
    Released,
}

/// The next step of a worker.
#[derive(Debug)]
pub(super) enum NextJob {
    Work(Job, WorkerSlot),
    /// No entry is ready, until this time at most.
    Idle(Option<Instant>),
    /// An entry is ready, but no slot is free; until a slot is freed, or until this time at most.
    NoSlot(Option<Instant>),
}

/// The entries of one ordering key in the order they start: as added, but `handle_skipped` puts an entry first or
/// second.
#[derive(Debug, Default)]
struct OrderingQueue {
    numbers: VecDeque<u64>,
    /// The number of entries with a body.
    with_body: usize,
    /// Set if the first one waits for a retry, for `unblock_stream`, or to become a dead letter: then none of them is
    /// work for a worker.
    is_stalled: bool,
    /// Set once an entry of the queue was redelivered: only the first of them can have been in flight at the process
    /// that ended.
    has_redelivered: bool,
}

/// The limits for the in-flight entries of a consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// A change at the limit for waiting entries: when it is reached, the bus reads no more.
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
    /// The number of entries with a body in queues that are not stalled: work for the workers.
    active: usize,
    /// The number of entries that the bus must read again, as they have no body.
    without_body: usize,
    /// The limit of `without_body`.
    max_without_body: usize,
    /// When `without_body` reached its limit; cleared once a tenth of them is gone.
    crowded_since: Option<OffsetDateTime>,
    /// The latest change of `crowded_since`, until [`take_limit_change`](Self::take_limit_change) returns it.
    limit_change: Option<WaitingLimit>,
    running: usize,
    /// The number of workers.
    workers: usize,
    /// The estimated memory of all bodies.
    bytes: usize,
    read_ahead: ReadAhead,
    /// When the last delivery ended.
    last_end: Option<Instant>,
    ready: BTreeSet<u64>,
    /// The ready entries that were read again: retries.
    ready_retries: BTreeSet<u64>,
    /// The number of retries that run.
    running_retries: usize,
    /// The number of new entries to start before the next retry, as long as there are new ones.
    new_before_retry: usize,
    /// Set if the bus can read more new entries at once.
    has_more: bool,
    /// The [`Stage::Suspect`] entries by `ended_alone`: the likely causes last.
    suspects: BTreeSet<(u32, u64)>,
    waiting: BTreeSet<(Instant, u64)>,
    /// The ordering keys that [`block_stream`](Self::block_stream) blocked, and how often.
    blocked_keys: NumberMap<usize>,
    /// The failed handlers of each unfinished entry, by the time of its first failure and its number.
    failing: BTreeMap<(u64, u64), Arc<str>>,
    /// The [`Stage::Due`] entries, the longest due first: none waits for ever behind entries that are due again and
    /// again.
    due: BTreeSet<(Instant, u64)>,
    /// The number of [`Stage::Reading`] entries.
    reading: usize,
    /// The number of [`Stage::Disposed`] entries.
    disposed_count: usize,
    /// The dispositions for the bus to persist, in order.
    outbox: Vec<DisposedEntry>,
    next: u64,
    clock: SharedClock,
}

impl InFlightState {
    pub(super) fn new(clock: SharedClock, max_without_body: usize) -> Self {
        Self { clock, max_without_body, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns the number of entries that take room: those with a body, or not yet persisted.
    pub(super) fn taking_room(&self) -> usize {
        self.items.len() - self.without_body
    }

    /// Returns how many entries wait, and since when these are too many; `None` if they are not.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        Some((self.without_body, self.crowded_since?))
    }

    /// Returns the time of the earliest first failure among the unfinished entries, in milliseconds since 1970, and the
    /// handlers that failed.
    pub(super) fn oldest_failing(&self) -> Option<(u64, Arc<str>)> {
        self.failing.first_key_value().map(|((since, _), handlers)| (*since, Arc::clone(handlers)))
    }

    /// Moves an entry to another stage, and from the index of the former one to that of the new one.
    ///
    /// No other place may change the stage. The index of `Suspect` depends on `ended_alone`, the indexes of `Ready` and
    /// `Running` on `is_retry`: neither changes in such a stage.
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
            Stage::Waiting { until, .. } => set(&mut self.waiting, (until, number), is_added),
            Stage::Due { since, .. } => set(&mut self.due, (since, number), is_added),
            Stage::Reading { .. } => count(&mut self.reading, is_added),
            Stage::Suspect => set(&mut self.suspects, (item.ended_alone(), number), is_added),
            Stage::Ready if item.is_retry() => set(&mut self.ready_retries, number, is_added),
            Stage::Ready => set(&mut self.ready, number, is_added),
            Stage::Running { .. } => {
                count(&mut self.running, is_added);
                if item.is_retry() {
                    count(&mut self.running_retries, is_added);
                }
            }
            Stage::Disposed => count(&mut self.disposed_count, is_added),
            Stage::Blocked | Stage::NotingStart { .. } | Stage::StartNoted { .. } | Stage::DeadLettering => {}
        }
    }

    /// Makes an entry ready to run, or a suspect if it was in flight when its process ended.
    fn set_ready(&mut self, number: u64) {
        let body = self.items.get(&number).and_then(|item| item.body.as_ref());
        let is_suspect = body.is_some_and(|body| body.attempts.is_suspect());
        self.set_stage(number, if is_suspect { Stage::Suspect } else { Stage::Ready });
    }

    /// Records that an entry has failed and is unfinished.
    fn mark_failing(&mut self, number: u64) {
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        let attempts = item.body.as_ref().map(|body| &body.attempts);
        let Some((since, attempts)) = attempts.and_then(|attempts| Some((attempts.first_failed_at?, attempts))) else {
            return;
        };
        if let Some(before) = item.failing_since.replace(since) {
            self.failing.remove(&(before, number));
        }
        self.failing.insert((since, number), attempts.handlers().into());
    }

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

    /// Clears the limit only once a tenth of the entries is gone: else it would change with each entry.
    fn uncount_without_body(&mut self) {
        self.without_body -= 1;
        if self.without_body <= self.max_without_body - self.max_without_body.div_ceil(10)
            && self.crowded_since.take().is_some()
        {
            self.limit_change = Some(WaitingLimit::Cleared);
        }
    }

    /// Returns `true` if a worker can run an entry, now or when a delay has passed.
    pub(super) fn has_work(&self) -> bool {
        self.startable() > 0 || !self.waiting.is_empty() || !self.suspects.is_empty() || !self.due.is_empty()
    }

    /// Returns the number of entries that can start now.
    pub(super) fn startable(&self) -> usize {
        self.ready.len() + self.ready_retries.len()
    }

    /// Returns how many more entries the bus should read, beside `coming` that it is about to add.
    ///
    /// The bus reads when half of the read-ahead window is gone, or when a worker is idle, even if the window is full:
    /// its entries may all be blocked. The bus reads none while too many wait.
    pub(super) fn room(&self, coming: usize, bounds: Bounds) -> usize {
        if self.crowded_since.is_some() {
            return 0;
        }
        let (workers, window) = self.read_ahead_window(bounds);
        // a worker on a retry counts as idle while more retries follow: else they would leave no room for new entries
        let has_more_retries = self.reading + self.ready_retries.len() + self.due.len() > 0;
        let running_retries = if has_more_retries { self.running_retries } else { 0 };
        let idle = match self.ready.len() {
            0 => (workers + running_retries).saturating_sub(self.running + coming),
            _ => 0,
        };
        let active = self.active.saturating_sub(self.ready_retries.len() + running_retries) + coming;
        if active > window / 2 && idle == 0 {
            return 0;
        }
        let free = bounds.entries.saturating_sub(self.taking_room() + self.reading + coming);
        self.fitting(window.saturating_sub(active).max(idle).min(free), self.reading + coming, bounds)
    }

    /// Returns `true` if a new entry can start, or the bus is about to read one: at once, or as soon as it has
    /// persisted dispositions.
    fn has_new_work(&self, bounds: Bounds) -> bool {
        let is_read = || self.disposed_count > 0 || self.room(0, bounds) > 0;
        !self.ready.is_empty() || (self.has_more && self.crowded_since.is_none() && is_read())
    }

    /// Sets whether the bus can read more new entries at once. Returns `true` if that has changed.
    pub(super) const fn set_has_more(&mut self, has_more: bool) -> bool {
        let has_changed = self.has_more != has_more;
        self.has_more = has_more;
        has_changed
    }

    /// Returns how many due entries the bus should read again now: a share of the read-ahead window, larger if no new
    /// entry can start, as soon as half of that share is used up.
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
        // suspects run one at a time, and must not take all the room
        let room = (window + share).saturating_sub(self.suspects.len() + ahead).max(idle);
        let free = bounds.entries.saturating_sub(self.taking_room() + self.reading);
        self.fitting((share - ahead).min(self.due.len()).min(room).min(free), self.reading, bounds)
    }

    /// Returns how many entries fit beside those that take room; at least one if none does.
    pub(super) fn free(&self, bounds: Bounds) -> usize {
        let in_flight = self.taking_room();
        let fitting = self.read_ahead.fitting(bounds.bytes.saturating_sub(self.bytes));
        bounds.entries.saturating_sub(in_flight).min(fitting.max(usize::from(in_flight == 0)))
    }

    /// Returns the number of workers, and their read-ahead window.
    pub(super) fn read_ahead_window(&self, bounds: Bounds) -> (usize, usize) {
        let workers = self.workers.max(1);
        (workers, self.read_ahead.window(workers, bounds.entries))
    }

    /// Returns how many of the `wanted` entries fit beside `coming` more; at least one if no entry takes room.
    fn fitting(&self, wanted: usize, coming: usize, bounds: Bounds) -> usize {
        if self.taking_room() == 0 && coming == 0 {
            return wanted.min(self.read_ahead.fitting(bounds.bytes).max(1));
        }
        let coming_bytes = self.read_ahead.bytes_of(coming);
        wanted.min(self.read_ahead.fitting(bounds.bytes.saturating_sub(self.bytes).saturating_sub(coming_bytes)))
    }

    /// Returns the estimated number of entries that fit into so many bytes, at least one.
    pub(super) fn fitting_into(&self, bytes: usize) -> usize {
        self.read_ahead.fitting(bytes).max(1)
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn contains(&self, id: &MessageId) -> bool {
        self.numbers.contains_key(id)
    }

    /// Returns the ids of all entries, unsorted.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.numbers.keys().cloned().collect()
    }

    /// Takes the dispositions for the bus to persist, in order.
    pub(super) fn take_disposed(&mut self) -> Vec<DisposedEntry> {
        std::mem::take(&mut self.outbox)
    }

    /// Returns the number of dispositions in the outbox.
    pub(super) fn unwritten(&self) -> usize {
        self.outbox.len()
    }

    /// Adds an entry. Returns `false` if it is there already.
    pub(super) fn add(&mut self, entry: InFlightEntry, now: Instant) -> bool {
        let InFlightEntry { id, record, mut attempts, is_redelivered } = entry;
        if self.contains(&id) {
            return false;
        }
        let key = self.hasher.hash_one(record.metadata().stream());
        if self.is_empty()
            && self.last_end.is_some_and(|end| now.saturating_duration_since(end) > READ_AHEAD_RESET_AFTER)
        {
            self.read_ahead.reset_window();
        }
        let disposition = self.examine_redelivered(&mut attempts, key, is_redelivered);
        let stage =
            if matches!(disposition, Some(Disposition::DeadLetter(_))) { Stage::DeadLettering } else { Stage::Blocked };
        let body = EntryBody::new(record, attempts, false);
        let bytes = body.as_ref().map_or(0, |body| body.bytes);
        let Some(number) = self.insert(StoredEntry { id, key, stage, body, failing_since: None }) else {
            return false;
        };
        self.mark_failing(number);
        self.read_ahead.read(bytes);
        if let (Some(disposition), Some(item)) = (disposition, self.items.get(&number)) {
            self.outbox.push(item.dispose(disposition));
        }
        let queue = self.queues.entry(key).or_default();
        queue.has_redelivered |= is_redelivered;
        let place = queue.numbers.len();
        self.enqueue(key, number, place, now);
        true
    }

    /// Puts an entry with a body into a queue, and activates it if it is the first there.
    fn enqueue(&mut self, key: OrderingKey, number: u64, place: usize, now: Instant) {
        let queue = self.queues.entry(key).or_default();
        let is_behind_waiters = queue.numbers.len() > queue.with_body;
        queue.numbers.insert(place, number);
        self.count_body(key, true);
        if place == 0 {
            self.activate(number, now);
        } else if is_behind_waiters {
            self.drop_body(number);
        }
    }

    /// Counts a body that an entry of a queue has got or lost.
    fn count_body(&mut self, key: OrderingKey, is_added: bool) {
        if let Some(queue) = self.queues.get_mut(&key) {
            count(&mut queue.with_body, is_added);
            if !queue.is_stalled {
                count(&mut self.active, is_added);
            }
        }
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
            // its process lives: a run alone that it persisted did not end the process
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
    pub(super) fn add_dead_letter(&mut self, id: MessageId, delivery_attempts: DeliveryAttempts) -> bool {
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

    /// Activates the first entry of its ordering key: see the table of [`Stage`].
    fn activate(&mut self, number: u64, now: Instant) {
        let Some(item) = self.items.get(&number) else {
            return;
        };
        let key = item.key;
        if self.blocked_keys.contains_key(&key) && !matches!(item.stage, Stage::DeadLettering) {
            self.set_stage(number, Stage::Blocked);
            self.set_stalled(key, true);
            return self.drop_bodies(key);
        }
        let Some(body) = &item.body else {
            self.set_stage(number, Stage::Due { since: now, has_waited: false });
            return self.set_stalled(key, false);
        };
        if matches!(item.stage, Stage::DeadLettering) {
            return self.set_stalled(key, true); // the next of its aggregate waits until it is a dead letter
        }
        let wait = body.attempts.wait(&self.clock);
        if !wait.is_zero() {
            return self.park_until(number, now + wait);
        }
        self.set_ready(number);
        self.set_stalled(key, false);
    }

    /// Blocks the entries of an aggregate until [`unblock_stream`](Self::unblock_stream).
    pub(super) fn block_stream(&mut self, stream: &StreamId, now: Instant) {
        let key = self.hasher.hash_one(stream);
        *self.blocked_keys.entry(key).or_default() += 1;
        if let Some(first) = self.first_of(key)
            && self.items.get(&first).is_some_and(|item| matches!(item.stage, Stage::Ready | Stage::Suspect))
        {
            self.activate(first, now);
        }
    }

    /// Unblocks an aggregate once; activates its first entry if no other block is left.
    pub(super) fn unblock_stream(&mut self, stream: &StreamId, now: Instant) {
        let key = self.hasher.hash_one(stream);
        match self.blocked_keys.get_mut(&key) {
            Some(times) if *times > 1 => return *times -= 1,
            Some(_) => drop(self.blocked_keys.remove(&key)),
            None => return,
        }
        if let Some(first) = self.first_of(key)
            && self.items.get(&first).is_some_and(|item| matches!(item.stage, Stage::Blocked))
        {
            self.activate(first, now);
        }
    }

    fn first_of(&self, key: OrderingKey) -> Option<u64> {
        self.queues.get(&key)?.numbers.front().copied()
    }

    /// Returns the number of entries that are being retried, or are blocked behind one of those.
    pub(super) fn retried(&self) -> usize {
        let is_retried = |number: &u64| {
            self.items.get(number).is_some_and(|item| {
                item.stage.waits_for_retry() || item.body.as_ref().is_some_and(|body| body.attempts.attempts > 0)
            })
        };
        let retried = self.queues.values().filter(|queue| queue.numbers.front().is_some_and(is_retried));
        retried.map(|queue| queue.numbers.len()).sum()
    }

    /// Counts all entries, those that wait for a retry, and the aggregates whose later events wait for an earlier one.
    pub(super) fn counts(&self) -> InFlightCounts {
        let waits = |queue: &&OrderingQueue| {
            let first = queue.numbers.front().and_then(|number| self.items.get(number));
            first.is_some_and(|item| item.stage.waits_for_retry())
        };
        let waiting = self.queues.values().filter(waits).count();
        let is_blocked = |queue: &&OrderingQueue| queue.is_stalled && queue.numbers.len() > 1;
        let blocked = self.queues.values().filter(is_blocked).count();
        InFlightCounts::new(self.items.len() as u64, waiting as u64, blocked as u64)
    }

    /// Makes the first entry of an ordering key wait; the entries behind it stay blocked meanwhile.
    fn park_until(&mut self, number: u64, until: Instant) {
        let Some(key) = self.items.get(&number).map(|item| item.key) else {
            return;
        };
        self.set_stage(number, Stage::Waiting { until, has_waited: true });
        self.set_stalled(key, true);
        self.drop_bodies(key);
    }

    /// Drops the bodies of blocked entries, and of a first one that waits: the bus reads them again.
    fn drop_bodies(&mut self, key: OrderingKey) {
        let numbers = self.queues.get(&key).map(|queue| queue.numbers.iter().copied());
        // entries without a body come behind those with one; a dead letter behind them keeps its body
        let has_body = |number: &u64| self.items.get(number).is_some_and(|item| item.body.is_some());
        let with_body: Vec<u64> = numbers.into_iter().flatten().take_while(has_body).collect();
        for number in with_body {
            self.drop_body(number);
        }
    }

    fn drop_body(&mut self, number: u64) {
        let can_be_read_later = |item: &&mut StoredEntry| matches!(item.stage, Stage::Blocked | Stage::Waiting { .. });
        let item = self.items.get_mut(&number).filter(can_be_read_later);
        let Some((key, body)) = item.and_then(|item| Some((item.key, item.body.take()?))) else {
            return;
        };
        self.bytes -= body.bytes;
        self.count_body(key, false);
        self.count_without_body();
    }

    /// Sets whether a queue waits for its first entry; keeps `active` in step.
    fn set_stalled(&mut self, key: OrderingKey, is_stalled: bool) {
        if let Some(queue) = self.queues.get_mut(&key)
            && queue.is_stalled != is_stalled
        {
            queue.is_stalled = is_stalled;
            match is_stalled {
                true => self.active -= queue.with_body,
                false => self.active += queue.with_body,
            }
        }
    }

    /// Returns the next step of a worker: the ready entry that was added first, and now and then a retry; never a
    /// suspect.
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

    /// Returns the entry that starts next; `None` if none is ready, or if a new one that the bus is about to read comes
    /// first.
    fn next_ready(&mut self, bounds: Bounds) -> Option<u64> {
        if (self.new_before_retry == 0 || !self.has_new_work(bounds))
            && let Some(retry) = self.ready_retries.first()
        {
            self.new_before_retry = NEW_ENTRIES_PER_RETRY;
            return Some(*retry);
        }
        let new = self.ready.first()?;
        self.new_before_retry = self.new_before_retry.saturating_sub(1);
        Some(*new)
    }

    fn run(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> Option<Job> {
        let item = self.items.get(&number)?;
        let body = item.body.as_ref()?;
        let (id, record, attempts) = (item.id.clone(), body.record.clone()?, body.attempts.clone());
        let is_alone = matches!(item.stage, Stage::StartNoted { is_alone: true });
        self.set_stage(number, Stage::Running { worker: Arc::clone(worker), since: now, is_alone });
        Some(Job { number, id, record, attempts })
    }

    /// Returns the suspect to run next: the one with the fewest process ends alone. A suspect with such an end waits
    /// until the bus has read all due entries that fit: one with fewer ends may be among them, and the likely cause
    /// would end the process, each time, before that one runs.
    pub(super) fn next_suspect(&mut self, now: Instant, bounds: Bounds) -> NextSuspect {
        self.expire_waits(now);
        let is_read = self.reading == 0 && self.due_room(bounds) == 0;
        let body = |number| self.items.get(number)?.body.as_ref();
        let next = self.suspects.first().filter(|(ended_alone, _)| *ended_alone == 0 || is_read);
        match next.and_then(|(_, number)| Some((*number, body(number)?))) {
            Some((number, body)) => NextSuspect::Now {
                number,
                delay: body.attempts.suspect_delay(),
                has_ended_alone: body.attempts.ended_alone > 0,
            },
            None => NextSuspect::Later(self.waiting.first().map(|(at, _)| *at)),
        }
    }

    /// Queues the begin of a suspect for the bus to persist. Returns `false` if the entry is not in flight any more.
    pub(super) fn note_start(&mut self, number: u64, is_alone: bool) -> bool {
        if !self.items.get(&number).is_some_and(|item| matches!(item.stage, Stage::Suspect)) {
            return false;
        }
        self.set_stage(number, Stage::NotingStart { is_alone });
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let Some(body) = &mut item.body else {
            return false;
        };
        body.attempts.begin(is_alone);
        let begins = Disposition::Begin(body.attempts.clone());
        self.outbox.push(item.dispose(begins));
        true
    }

    /// Starts a suspect once the bus has persisted that it begins.
    pub(super) fn take_started(&mut self, number: u64, worker: &Arc<Notify>, now: Instant) -> StartNote {
        match self.items.get(&number).map(|item| &item.stage) {
            Some(Stage::StartNoted { .. }) => {
                self.run(number, worker, now).map_or(StartNote::Released, StartNote::Started)
            }
            Some(Stage::NotingStart { .. }) => StartNote::Pending,
            _ => StartNote::Released,
        }
    }

    /// Makes the entries due that have waited long enough.
    fn expire_waits(&mut self, now: Instant) {
        while let Some((since, number)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.pop_first();
            if let Some(&StoredEntry { key, stage: Stage::Waiting { has_waited, .. }, .. }) = self.items.get(&number) {
                self.set_stage(number, Stage::Due { since, has_waited });
                self.set_stalled(key, false);
            }
        }
    }

    /// Returns the entries that the bus must read again now, the longest due first, each once. One whose disposition is
    /// still in the outbox stays due: the bus has not persisted the attempts that it would read.
    pub(super) fn take_due(&mut self, now: Instant, bounds: Bounds) -> Vec<DueEntry> {
        self.expire_waits(now);
        let room = self.due_room(bounds);
        if room == 0 {
            return Vec::new();
        }
        let in_outbox: HashSet<&MessageId> = self.outbox.iter().map(|disposed| &disposed.id).collect();
        let due = self.due.iter().filter_map(|(_, number)| Some((*number, self.items.get(number)?)));
        let due = due.filter(|(_, item)| !in_outbox.contains(&item.id)).take(room);
        let due: Vec<_> = due.map(|(number, item)| (number, item.id.clone())).collect();
        let mut due_entries = Vec::with_capacity(due.len());
        for (number, id) in due {
            if let Some(&StoredEntry { stage: Stage::Due { since, has_waited }, .. }) = self.items.get(&number) {
                due_entries.push(DueEntry { id, has_waited });
                self.set_stage(number, Stage::Reading { since, has_waited });
            }
        }
        due_entries
    }

    /// Resumes an entry that the bus has read again. Returns `false` if the entry is not [`Stage::Reading`] any more.
    pub(super) fn resume(&mut self, entry: InFlightEntry, now: Instant) -> bool {
        let Some((number, _, has_waited)) = self.reading(&entry.id) else {
            return false;
        };
        let InFlightEntry { record, mut attempts, .. } = entry;
        if has_waited {
            attempts.next_at = None; // it has waited by our clock; the clock of another consumer may differ
        }
        self.set_stage(number, Stage::Blocked);
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        item.body = EntryBody::new(record, attempts, true);
        let (bytes, key) = (item.body.as_ref().map_or(0, |body| body.bytes), item.key);
        self.bytes += bytes;
        self.uncount_without_body();
        self.mark_failing(number);
        self.read_ahead.read(bytes);
        self.count_body(key, true);
        self.activate(number, now);
        true
    }

    /// Returns an entry that the bus could not read again: it is still due.
    pub(super) fn return_due(&mut self, id: &MessageId) {
        if let Some((number, since, has_waited)) = self.reading(id) {
            self.set_stage(number, Stage::Due { since, has_waited });
        }
    }

    /// Postpones an entry that the bus cannot read again yet.
    pub(super) fn postpone(&mut self, id: &MessageId, until: Instant) {
        if let Some((number, _, has_waited)) = self.reading(id)
            && let Some(item) = self.items.get(&number)
        {
            let key = item.key;
            self.set_stage(number, Stage::Waiting { until, has_waited });
            self.set_stalled(key, true);
        }
    }

    /// Returns the number of an entry that is being read again, since when it was due, and whether it has waited.
    fn reading(&self, id: &MessageId) -> Option<(u64, Instant, bool)> {
        let number = *self.numbers.get(id)?;
        match self.items.get(&number)?.stage {
            Stage::Reading { since, has_waited } => Some((number, since, has_waited)),
            _ => None,
        }
    }

    /// Records that the bus has persisted that a suspect begins.
    pub(super) fn begin(&mut self, id: &MessageId) {
        if let Some(number) = self.numbers.get(id).copied()
            && let Some(&StoredEntry { stage: Stage::NotingStart { is_alone }, .. }) = self.items.get(&number)
        {
            self.set_stage(number, Stage::StartNoted { is_alone });
        }
    }

    /// Returns `true` if the entry is a suspect that begins: its task waits until the bus has persisted that.
    pub(super) fn is_starting(&self, id: &MessageId) -> bool {
        let item = self.numbers.get(id).and_then(|number| self.items.get(number));
        item.is_some_and(|item| matches!(item.stage, Stage::NotingStart { .. } | Stage::StartNoted { .. }))
    }

    /// Returns `true` if a worker still runs the entry.
    pub(super) fn is_running(&self, number: u64) -> bool {
        self.items.get(&number).is_some_and(|item| matches!(item.stage, Stage::Running { .. }))
    }

    /// Records the outcome of a run. Returns `true` if the bus must persist it; ignores it if the entry was released
    /// meanwhile.
    pub(super) fn record_outcome(&mut self, number: u64, outcome: Outcome, policy: &RetryPolicy, now: Instant) -> bool {
        let Some(StoredEntry { stage: Stage::Running { since, is_alone, .. }, .. }) = self.items.get(&number) else {
            return false;
        };
        let (since, is_alone) = (*since, *is_alone);
        self.last_end = Some(now);
        let Some(item) = self.items.get_mut(&number) else {
            return false;
        };
        let Some(body) = &mut item.body else {
            return false;
        };
        let Some(disposition) = Disposition::from_outcome(outcome, &mut body.attempts, policy, &self.clock) else {
            if is_alone {
                body.attempts.note_slow_consumer();
            }
            self.activate(number, now);
            return false;
        };
        self.read_ahead.ended(now.saturating_duration_since(since), self.workers);
        let key = item.key;
        match disposition {
            Disposition::Retry { after, .. } => {
                self.outbox.push(item.dispose(disposition));
                self.mark_failing(number);
                self.park_until(number, now + after);
            }
            Disposition::DeadLetter(_) => {
                self.outbox.push(item.dispose(disposition));
                self.set_stage(number, Stage::DeadLettering);
                self.set_stalled(key, true);
            }
            _ => {
                // moved, not cloned: the bus drops the record outside of our lock
                let (record, bytes) = (body.record.take(), body.bytes);
                self.outbox.push(DisposedEntry { id: item.id.clone(), record, disposition });
                self.set_stage(number, Stage::Disposed);
                if let Some(item) = self.items.get_mut(&number) {
                    item.body = None;
                }
                self.bytes -= bytes;
                self.leave_queue(key, number, true, now);
            }
        }
        true
    }

    /// Queues a skipped entry to be handled, unless it was released since: before the first entry of its aggregate if
    /// that has not been started, else right behind it.
    pub(super) fn handle_skipped(&mut self, skipped: DisposedEntry, now: Instant) {
        let DisposedEntry { id, record: Some(record), disposition: Disposition::Skip(attempts) } = skipped else {
            return;
        };
        let Some(number) = self.numbers.get(&id).copied() else {
            return;
        };
        if !self.items.get(&number).is_some_and(|item| matches!(item.stage, Stage::Disposed)) {
            return;
        }
        self.set_stage(number, Stage::Blocked);
        let Some(item) = self.items.get_mut(&number) else {
            return;
        };
        item.body = EntryBody::new(record, attempts, false);
        self.bytes += item.body.as_ref().map_or(0, |body| body.bytes);
        let key = item.key;
        let is_before = self.first_of(key).is_none_or(|first| self.block_unstarted(first));
        self.enqueue(key, number, usize::from(!is_before), now);
    }

    /// Blocks the first entry of an ordering key, for one that is put before it. Returns `false` if it has started.
    fn block_unstarted(&mut self, first: u64) -> bool {
        let is_unstarted = |item: &StoredEntry| match item.stage {
            Stage::Ready | Stage::Suspect | Stage::Blocked => true,
            // an entry that is being read now is read once more when it is the first again
            Stage::Due { has_waited, .. } | Stage::Reading { has_waited, .. } | Stage::Waiting { has_waited, .. } => {
                !has_waited
            }
            _ => false,
        };
        let may_block = self.items.get(&first).is_some_and(is_unstarted);
        if may_block {
            self.set_stage(first, Stage::Blocked);
        }
        may_block
    }

    /// Removes an entry, in any stage, and notifies a worker that runs it. Returns `false` if the entry was not there.
    pub(super) fn release(&mut self, id: &MessageId, now: Instant) -> bool {
        let Some(number) = self.numbers.remove(id) else {
            return false;
        };
        self.index(number, false);
        let Some(item) = self.items.remove(&number) else {
            return false;
        };
        if let Some(since) = item.failing_since {
            self.failing.remove(&(since, number));
        }
        if matches!(item.stage, Stage::Disposed) {
            return true; // it has left its queue
        }
        match &item.body {
            Some(body) => self.bytes -= body.bytes,
            None => self.uncount_without_body(),
        }
        if let Stage::Running { worker, .. } = item.stage {
            worker.notify_one();
        }
        self.leave_queue(item.key, number, item.body.is_some(), now);
        true
    }

    /// Removes the entries that neither run nor are finished, and returns their ids. If one of them was to begin as a
    /// suspect, drops its [`Disposition::Begin`] from the outbox; if the bus has taken that already, queues the
    /// attempts that revert it.
    pub(super) fn nack_idle_if(&mut self, which: impl Fn(&MessageId) -> bool) -> Vec<MessageId> {
        self.nack(|item| !matches!(item.stage, Stage::Running { .. }) && which(&item.id))
    }

    /// As [`nack_idle_if`](Self::nack_idle_if), for all entries, also those that run: an aborted run counts as none.
    pub(super) fn nack_unfinished(&mut self) -> Vec<MessageId> {
        self.nack(|_| true)
    }

    fn nack(&mut self, which: impl Fn(&StoredEntry) -> bool) -> Vec<MessageId> {
        let is_finished = |item: &StoredEntry| matches!(item.stage, Stage::Disposed | Stage::DeadLettering);
        let is_nacked = |item: &StoredEntry| !is_finished(item) && which(item);
        let ids: Vec<_> = self.items.values().filter(|item| is_nacked(item)).map(|item| item.id.clone()).collect();
        let mut not_begun = HashMap::new();
        for item in self.items.values_mut().filter(|item| is_nacked(item)) {
            let is_suspect = item.body.as_ref().is_some_and(|body| body.attempts.is_suspect());
            if let Stage::NotingStart { is_alone } | Stage::StartNoted { is_alone } | Stage::Running { is_alone, .. } =
                item.stage
                && is_suspect
            {
                not_begun
                    .extend(item.undo_begin(is_alone, &self.clock).map(|disposed| (disposed.id.clone(), disposed)));
            }
        }
        let now = self.clock.instant();
        for id in &ids {
            self.release(id, now);
        }
        self.outbox.retain(|disposed_entry| {
            let is_begin = matches!(disposed_entry.disposition, Disposition::Begin(_));
            !is_begin || not_begun.remove(&disposed_entry.id).is_none()
        });
        self.outbox.extend(not_begun.into_values());
        ids
    }

    /// Takes an entry out of its queue, and activates the next one if the entry was the first.
    fn leave_queue(&mut self, key: OrderingKey, number: u64, has_body: bool, now: Instant) {
        let Some(queue) = self.queues.get_mut(&key) else {
            return;
        };
        let was_first = queue.numbers.front() == Some(&number);
        if was_first {
            queue.numbers.pop_front();
        } else if let Some(slot) = queue.numbers.iter().position(|other| *other == number) {
            queue.numbers.remove(slot);
        } else {
            return; // an entry that is no event has no aggregate
        }
        let next = queue.numbers.front().copied();
        if has_body {
            self.count_body(key, false);
        }
        match next {
            None => drop(self.queues.remove(&key)),
            Some(next) if was_first => self.activate(next, now),
            Some(_) => {}
        }
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
