//! The in-flight entries of one consumer, shared between the tasks that receive, handle and acknowledge them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{ConsumerReport, Outcome},
    entry::{DEFAULT_MAX_WAITING, DisposedEntry, InFlightEntry},
    group_context::GroupContext,
    state::{Bounds, InFlightState, Job, WaitingLimit},
    suspects::{SuspectLock, SuspectPermit},
};
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{MessageId, attempts::DeliveryAttempts, health::OldestUnfinished, stats::InFlightCounts},
};

/// In-flight entries of one consumer, shared between its tasks.
#[derive(Debug)]
#[must_use]
pub struct InFlight {
    /// Locked for each transition, which changes stage, queue and counts together; no transition awaits.
    state: Mutex<InFlightState>,
    clock: SharedClock,
    /// Wakes one idle worker, which wakes the next one if it leaves work.
    work: Notify,
    /// Wakes the bus if dispositions are ready to persist.
    outbox: BusSignal,
    /// Wakes the bus if there may be room again.
    room: BusSignal,
    /// Wakes [`run_waits`](Self::run_waits) if an entry is due earlier than before, or a suspect waits for its turn.
    due: Notify,
    /// Set once a waiting task of the bus was woken, until a worker lets it run.
    has_woken: AtomicBool,
    /// Set by [`run_workers`](super::run_workers).
    group: OnceLock<(Name, SuspectLock)>,
}

/// Wakes one task of the bus.
#[derive(Debug, Default)]
struct BusSignal {
    notify: Notify,
    /// Set while the task waits, or if it gave up waiting.
    is_awaited: AtomicBool,
}

impl BusSignal {
    async fn notified(&self) {
        self.is_awaited.store(true, Ordering::Release);
        self.notify.notified().await;
        self.is_awaited.store(false, Ordering::Release);
    }

    /// Returns `true` if the task may have waited.
    fn notify(&self) -> bool {
        self.notify.notify_one();
        self.is_awaited.load(Ordering::Acquire)
    }
}

impl InFlight {
    /// Creates an empty set of in-flight entries, limited to `entries` entries of `bytes` bytes together; it holds at
    /// least one entry, however large.
    ///
    /// A consumer reads ahead as many entries as its workers finish in about a tenth of a second, at the latest
    /// measured pace; at first two for each worker.
    pub fn new(entries: usize, bytes: usize, clock: SharedClock) -> Self {
        let bounds = Bounds { entries: entries.max(1), bytes, delayed: DEFAULT_MAX_WAITING };
        let state = Mutex::new(InFlightState::new(clock.clone(), bounds));
        let (work, outbox, room, due, has_woken) = Default::default();
        Self { state, clock, work, outbox, room, due, has_woken, group: OnceLock::new() }
    }

    /// Limits the entries that wait for a retry, or are blocked behind one that does, to `entries`, at least one, and to
    /// 16 times the bytes of the others; the default is [`DEFAULT_MAX_WAITING`]. At the limit the bus reads no more until a tenth of them is gone, and health
    /// has an alert.
    pub fn with_max_waiting(self, entries: usize) -> Self {
        let bounds = Bounds { delayed: entries.max(1), ..self.state.lock().bounds() };
        *self.state.lock() = InFlightState::new(self.clock.clone(), bounds);
        self
    }

    /// Adds the entries that are not in flight already; returns how many.
    pub fn add(&self, entries: impl IntoIterator<Item = InFlightEntry>) -> usize {
        // before the lock: the caller's iterator may call our methods
        let entries: Vec<_> = entries.into_iter().collect();
        self.update(|state, now| entries.into_iter().map(|entry| usize::from(state.add(entry, now))).sum())
    }

    /// Changes the state, wakes the tasks that this concerns, and logs if the waiting limit was reached or cleared.
    fn update<T>(&self, change: impl FnOnce(&mut InFlightState, Instant) -> T) -> T {
        let now = self.clock.instant();
        let mut state = self.state.lock();
        let (wait, wanted) = (state.next_wait(), state.wants_permit());
        let changed = change(&mut state, now);
        let is_sooner = state.next_wait().is_some_and(|at| wait.is_none_or(|wait| at < wait));
        let (has_work, has_outcome, has_room) = (state.startable() > 0, state.unwritten() > 0, state.room(0) > 0);
        let has_due = is_sooner || state.wants_permit() && !wanted;
        let limit_change = state.take_limit_change();
        drop(state); // before waking: a woken task locks the state at once
        if has_work {
            self.work.notify_one();
        }
        if has_due {
            self.due.notify_one();
        }
        let tasks = [(has_outcome, &self.outbox), (has_room, &self.room)];
        if tasks.into_iter().filter(|(wakes, task)| *wakes && task.notify()).count() > 0 {
            self.has_woken.store(true, Ordering::Release);
        }
        let group = self.group.get().map(|(group, _)| tracing::field::display(group));
        match limit_change {
            Some(WaitingLimit::Reached) => tracing::error!(
                group,
                "too many events wait for a retry, or behind one that does: the consumer reads no more until a tenth of \
                 them is gone"
            ),
            Some(WaitingLimit::Cleared) => {
                tracing::info!(group, "fewer events wait for a retry: the consumer reads again");
            }
            None => {}
        }
        changed
    }

    /// Starts waiting entries at their time, and suspects in their turn; does not end.
    pub(super) async fn run_waits(&self) {
        loop {
            let (next_wait, wants_permit) = self.update(|state, now| {
                state.expire_waits(now);
                (state.next_wait(), state.wants_permit())
            });
            // each branch may make an entry due, and the loop looks again
            tokio::select! {
                () = self.due.notified() => {}
                () = self.sleep_until(next_wait) => {}
                permit = self.next_permit(), if wants_permit => self.update(|state, _| state.take_permit(permit)),
            }
        }
    }

    async fn sleep_until(&self, time: Option<Instant>) {
        match time {
            Some(time) => self.clock.sleep_until(time).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until no other suspect of the bus runs; for ever before there are workers.
    async fn next_permit(&self) -> SuspectPermit {
        match self.group.get() {
            Some((_, lock)) => lock.acquire().await,
            None => std::future::pending().await,
        }
    }

    /// Starts entries that may have ended their processes: their [`Begin`](super::Disposition::Begin) is persisted.
    pub fn begin<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        self.update(|state, _| ids.into_iter().for_each(|id| state.begin(id)));
    }

    /// Returns `true` if so many entries wait that the bus must read no more.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.state.lock().crowded().is_some()
    }

    /// Adds an entry that becomes a dead letter at once: it is no event, or has used up its attempts.
    pub fn add_dead_letter(&self, id: MessageId, attempts: DeliveryAttempts) {
        self.update(|state, now| state.add_dead_letter(id, attempts, now));
    }

    /// Returns `true` if the entry is in flight.
    #[must_use]
    pub fn contains(&self, id: &MessageId) -> bool {
        self.state.lock().contains(id)
    }

    /// Returns the ids of the in-flight entries, unsorted.
    #[must_use]
    pub fn ids(&self) -> Vec<MessageId> {
        self.state.lock().ids()
    }

    /// Returns the number of in-flight entries: ready, running, waiting for a retry, blocked, or not yet persisted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().len()
    }

    /// Returns `true` if no entry is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many more entries fit. Those that wait take no room, but none fit if too many wait.
    #[must_use]
    pub fn free(&self) -> usize {
        let state = self.state.lock();
        if state.crowded().is_some() { 0 } else { state.free() }
    }

    /// Waits until the bus should read more entries, and returns how many.
    pub async fn room(&self) -> usize {
        loop {
            let room = self.room_beside(0);
            if room > 0 {
                return room;
            }
            self.room.notified().await;
        }
    }

    /// Returns how many entries the bus should read now, beside `coming` that it is about to add; 0 while the workers
    /// have enough.
    #[must_use]
    pub fn room_beside(&self, coming: usize) -> usize {
        self.state.lock().room(coming)
    }

    /// Returns the estimated number of entries that fit into so many bytes, at least one.
    #[must_use]
    pub fn fitting_into(&self, bytes: usize) -> usize {
        self.state.lock().fitting_into(bytes)
    }

    /// Waits until dispositions are ready to persist. The bus should not wait for more of them: an entry is handled
    /// again if the process ends before the write. Dispositions that arrive during a write go into the next one.
    pub async fn disposed(&self) {
        while self.state.lock().unwritten() == 0 {
            self.outbox.notified().await;
        }
    }

    /// Returns the entries whose dispositions the bus must persist, in order, each once.
    pub fn take_disposed(&self) -> Vec<DisposedEntry> {
        self.state.lock().take_disposed()
    }

    /// Removes entries: their dispositions are persisted, or another consumer has taken them over. Cancels handlers
    /// that run one of them.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        self.update(|state, now| {
            for id in ids {
                state.release(id, now);
            }
        });
    }

    /// Removes all entries that are not finished, also those that run, and returns their ids for the bus to nack: no worker
    /// runs any more. Attempts that are ready to persist stay so.
    pub fn nack_unfinished(&self) -> Vec<MessageId> {
        self.update(InFlightState::nack_unfinished)
    }

    /// Begins the work of a consumer: reports of its group include these entries from now on.
    pub(super) fn begin_work(self: &Arc<Self>, context: &GroupContext) {
        let _ = self.group.set((context.group.clone(), context.suspect_lock.clone()));
        self.due.notify_one(); // suspects get turns from now on
        let report = Arc::downgrade(self);
        context.subscribers.add_in_flight(&context.group, report);
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Waits until a worker may have work.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Lets a task of the bus run that was woken: it may wait behind a worker, whose handler may block the thread.
    pub(super) async fn yield_to_bus(&self) {
        if self.has_woken.swap(false, Ordering::AcqRel) {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn wake_worker(&self) {
        self.work.notify_one();
    }

    /// Returns the number of workers, at most one per entry that fits.
    pub(super) fn workers(&self, context: &GroupContext) -> usize {
        context.workers().min(self.state.lock().bounds().entries)
    }

    /// Takes the next entry for a worker. If the entry is released while it runs, `released` is cancelled.
    pub(super) fn take(&self, context: &GroupContext, released: &CancellationToken) -> Option<Job> {
        let workers = self.workers(context);
        self.update(|state, now| state.next_job(workers, released, now))
    }

    pub(super) fn record_outcome(&self, number: u64, outcome: Outcome, context: &GroupContext) {
        self.update(|state, now| state.record_outcome(number, outcome, &context.retry, now));
    }

    pub(super) fn release_permit(&self, number: u64) {
        self.update(|state, _| state.release_permit(number));
    }
}

impl ConsumerReport for InFlight {
    fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        self.state.lock().crowded()
    }

    fn oldest_unfinished(&self, group: &Name) -> Option<OldestUnfinished> {
        let (oldest, unfinished) = {
            let state = self.state.lock();
            (state.oldest_failing(), state.len() as u64)
        };
        let (since, handlers) = oldest?;
        Some(OldestUnfinished::new(group.as_str(), &handlers, since, unfinished, &self.clock))
    }

    fn counts(&self) -> InFlightCounts {
        self.state.lock().counts()
    }
}
