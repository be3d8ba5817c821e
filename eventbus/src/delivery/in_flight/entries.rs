//! The in-flight entries of one consumer, shared between the tasks that receive, handle and acknowledge them.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{
    super::{ConsumerReport, Outcome, Subscribers},
    entry::{DEFAULT_MAX_WAITING, DisposedEntry, Disposition, DueEntry, InFlightEntry},
    group_context::{GroupContext, GroupHandlers},
    state::{Bounds, InFlightState, NextJob, NextSuspect, StartNote, WaitingLimit},
    worker_slots::WorkerSlots,
};
use crate::{
    domain::{clock::SharedClock, name::Name, stream::StreamId},
    port::{MessageId, attempts::DeliveryAttempts, health::OldestUnfinished, stats::InFlightCounts},
};

/// In-flight entries of one consumer, shared between its tasks.
#[derive(Debug)]
#[must_use]
pub struct InFlight {
    /// Locked for each transition, which changes stage, queue and counts together; no transition awaits.
    state: Mutex<InFlightState>,
    bounds: Bounds,
    clock: SharedClock,
    /// Wakes all idle workers together. So a worker that leaves work for later wakes no further one: each has seen the
    /// same state.
    work: Notify,
    /// Wakes the bus if dispositions are ready to persist.
    outbox: BusSignal,
    /// Wakes the bus if there may be room again.
    room: BusSignal,
    /// Wakes the bus if entries may be due.
    due: BusSignal,
    /// The group and its subscribers, set by [`run_workers`](super::run_workers).
    group: OnceLock<(Name, Subscribers)>,
    /// Set while workers handle entries.
    is_worked: AtomicBool,
    worker_slots: WorkerSlots,
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
        let (work, outbox, room, due) = Default::default();
        let state = Mutex::new(InFlightState::new(clock.clone(), DEFAULT_MAX_WAITING));
        let bounds = Bounds { entries: entries.max(1), bytes };
        let (group, is_worked, worker_slots) = (OnceLock::new(), AtomicBool::new(false), WorkerSlots::default());
        Self { state, bounds, clock, work, outbox, room, due, group, is_worked, worker_slots }
    }

    /// Limits the entries that wait for a retry, or are blocked behind one that does, to `entries`, at least one; the
    /// default is [`DEFAULT_MAX_WAITING`]. At the limit the bus reads no more until a tenth of them is gone, and health
    /// has an alert.
    pub fn with_max_waiting(self, entries: usize) -> Self {
        *self.state.lock() = InFlightState::new(self.clock.clone(), entries.max(1));
        self
    }

    /// Shares `slots` with the other `InFlight`s of the same consumer and group: together they run as many entries at
    /// once as one of them would alone.
    pub fn with_slots(self, slots: &WorkerSlots) -> Self {
        Self { worker_slots: slots.clone(), ..self }
    }

    /// Blocks aggregates whose earlier events wait elsewhere, as in a backlog: their entries do not start until each
    /// aggregate was [unblocked](Self::unblock_streams) as often as blocked. An entry that runs or begins already is not
    /// stopped.
    pub fn block_streams<'a>(&self, streams: impl IntoIterator<Item = &'a StreamId>) {
        self.update(|state, now| streams.into_iter().for_each(|stream| state.block_stream(stream, now)));
    }

    /// Unblocks aggregates that were [blocked](Self::block_streams), each once.
    pub fn unblock_streams<'a>(&self, streams: impl IntoIterator<Item = &'a StreamId>) {
        self.update(|state, now| streams.into_iter().for_each(|stream| state.unblock_stream(stream, now)));
        self.work.notify_waiters();
    }

    /// Returns the number of entries that are being retried, or are blocked behind one of those.
    #[must_use]
    pub fn count_retried(&self) -> usize {
        self.state.lock().retried()
    }

    /// Adds the entries that are not in flight already; returns how many.
    pub fn add(&self, entries: impl IntoIterator<Item = InFlightEntry>) -> usize {
        // before the lock: the caller's iterator may call our methods
        let entries: Vec<_> = entries.into_iter().collect();
        let added = self.update(|state, now| {
            let before = state.len();
            for entry in entries {
                state.add(entry, now);
            }
            state.len() - before
        });
        self.work.notify_waiters();
        added
    }

    /// Changes the state, and wakes the tasks of the bus that this concerns.
    fn update<T>(&self, change: impl FnOnce(&mut InFlightState, Instant) -> T) -> T {
        self.update_and_wake(change).0
    }

    /// As [`update`](Self::update); returns also `true` if a task was woken.
    fn update_and_wake<T>(&self, change: impl FnOnce(&mut InFlightState, Instant) -> T) -> (T, bool) {
        let now = self.clock.instant();
        let mut state = self.state.lock();
        let changed = change(&mut state, now);
        (changed, self.notify_waiters(state))
    }

    /// Wakes the tasks of the bus that the changed state concerns, and logs if the waiting limit was reached or
    /// cleared. Returns `true` if a task was woken.
    fn notify_waiters(&self, mut state: MutexGuard<'_, InFlightState>) -> bool {
        let (has_more, has_room) = (state.unwritten() > 0, state.room(0, self.bounds) > 0);
        let (has_due, crowding) = (state.due_room(self.bounds) > 0, state.take_limit_change());
        drop(state); // before waking: a woken task locks the state at once
        let mut has_woken = has_more && self.outbox.notify();
        has_woken |= has_room && self.room.notify();
        has_woken |= has_due && self.due.notify();
        let group = self.group.get().map(|(group, _)| tracing::field::display(group));
        match crowding {
            Some(WaitingLimit::Reached) => {
                self.work.notify_waiters(); // no new entries follow: idle workers run retries now
                tracing::error!(
                    group,
                    "too many events wait for a retry, or behind one that does: the consumer reads no more until a \
                     tenth of them is gone"
                );
            }
            Some(WaitingLimit::Cleared) => {
                tracing::info!(group, "fewer events wait for a retry: the consumer reads again");
            }
            None => {}
        }
        has_woken
    }

    /// Sets whether more new entries can be read at once. As long as they can, workers run retries only now and then,
    /// and an idle worker waits for a new entry instead. If a bus never sets it, any idle worker runs retries.
    pub fn set_has_more(&self, has_more: bool) {
        let mut state = self.state.lock();
        if state.set_has_more(has_more) {
            self.notify_waiters(state);
            self.work.notify_waiters();
        }
    }

    /// Waits until the bus must read entries again.
    pub async fn due(&self) {
        while self.state.lock().due_room(self.bounds) == 0 {
            self.due.notified().await;
        }
    }

    /// Returns the entries that the bus must read again now, each once. Before this call, the bus must persist all
    /// dispositions that [`take_disposed`](Self::take_disposed) returned; an entry with a later disposition is not
    /// returned. Then the bus [resumes](Self::resume) each entry, [returns](Self::return_due) it unread,
    /// [postpones](Self::postpone) or [releases](Self::release) it.
    pub fn take_due(&self) -> Vec<DueEntry> {
        self.state.lock().take_due(self.clock.instant(), self.bounds)
    }

    /// Resumes entries that the bus has read again, with their persisted attempts.
    pub fn resume(&self, entries: impl IntoIterator<Item = InFlightEntry>) {
        self.update(|state, now| {
            for entry in entries {
                state.resume(entry, now);
            }
        });
        self.work.notify_waiters();
    }

    /// Returns entries that the bus could not read again: they are still due.
    pub fn return_due<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        self.update(|state, _| ids.into_iter().for_each(|id| state.return_due(id)));
        self.work.notify_waiters();
    }

    /// Postpones entries that the bus cannot read again yet: they are due after `time`.
    pub fn postpone<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>, time: Duration) {
        self.update(|state, now| ids.into_iter().for_each(|id| state.postpone(id, now + time)));
        self.work.notify_waiters();
    }

    /// Returns `true` if so many entries wait that the bus must read no more.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.state.lock().crowded().is_some()
    }

    /// Adds an entry that becomes a dead letter at once: it is no event, or has used up its attempts.
    pub fn add_dead_letter(&self, id: MessageId, attempts: DeliveryAttempts) {
        if self.state.lock().add_dead_letter(id, attempts) {
            self.outbox.notify();
        }
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
        if state.crowded().is_some() { 0 } else { state.free(self.bounds) }
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
        self.state.lock().room(coming, self.bounds)
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
    ///
    /// A skipped entry is handled instead if a handler for it has joined meanwhile: the bus may have announced that
    /// handler already, and would not search again for events that were skipped before. Of its aggregate, only an entry
    /// that was started meanwhile, or is being read again, runs before it.
    pub fn take_disposed(&self) -> Vec<DisposedEntry> {
        let disposed = self.state.lock().take_disposed();
        if !disposed.iter().any(|entry| matches!(entry.disposition, Disposition::Skip(_))) {
            return disposed;
        }
        let (skipped, disposed): (Vec<_>, Vec<_>) = disposed.into_iter().partition(|entry| self.has_handler(entry));
        if !skipped.is_empty() {
            // the last first: each goes to the front of its aggregate's queue
            let skipped = skipped.into_iter().rev();
            self.update(|state, now| skipped.for_each(|skipped| state.handle_skipped(skipped, now)));
            self.work.notify_waiters();
        }
        disposed
    }

    /// Returns `true` if a handler has joined for a skipped entry, and workers are there to run it.
    fn has_handler(&self, disposed: &DisposedEntry) -> bool {
        let DisposedEntry { record: Some(record), disposition: Disposition::Skip(_), .. } = disposed else {
            return false;
        };
        let handle = |(group, subscribers): &(Name, Subscribers)| subscribers.handle(group, record.event_type());
        self.is_worked.load(Ordering::Acquire) && self.group.get().is_some_and(handle)
    }

    /// Returns the read-ahead window: the entries that are running or read ahead at the workers' pace.
    #[must_use]
    pub fn read_ahead(&self) -> usize {
        self.state.lock().read_ahead_window(self.bounds).1
    }

    /// Lets suspects run: the bus has persisted that they begin.
    pub fn begin<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        ids.into_iter().for_each(|id| self.state.lock().begin(id));
        self.work.notify_waiters();
    }

    /// Removes entries: their dispositions are persisted, or another consumer has taken them over. Cancels handlers
    /// that run one of them.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        let has_work = self.update(|state, now| {
            let mut is_starting = false;
            for id in ids {
                is_starting |= state.is_starting(id);
                state.release(id, now);
            }
            // the task of a suspect that begins keeps all other deliveries of the bus waiting
            is_starting || state.has_work()
        });
        self.room.notify();
        if has_work {
            self.work.notify_waiters();
        }
    }

    /// Removes the selected entries that neither run nor are finished, and returns their ids for the bus to nack. Attempts
    /// that are ready to persist stay so.
    pub fn nack_idle_if(&self, which: impl Fn(&MessageId) -> bool) -> Vec<MessageId> {
        self.nack(|state| state.nack_idle_if(which))
    }

    /// Removes all entries that are not finished, also those that run, and returns their ids for the bus to nack: no worker
    /// runs any more. Attempts that are ready to persist stay so.
    pub fn nack_unfinished(&self) -> Vec<MessageId> {
        self.nack(InFlightState::nack_unfinished)
    }

    fn nack(&self, nack: impl FnOnce(&mut InFlightState) -> Vec<MessageId>) -> Vec<MessageId> {
        let nacked = self.update(|state, _| nack(state));
        self.room.notify();
        self.work.notify_waiters();
        nacked
    }

    /// Begins the work of a consumer: reports of its group include these entries from now on.
    pub(super) fn begin_work(self: &Arc<Self>, context: &GroupContext) {
        let _ = self.group.set((context.group.clone(), context.subscribers.clone()));
        self.is_worked.store(true, Ordering::Release);
        let report = Arc::downgrade(self);
        context.subscribers.add_in_flight(&context.group, report);
    }

    pub(super) fn end_work(&self) {
        self.is_worked.store(false, Ordering::Release);
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn wake_workers(&self) {
        self.work.notify_waiters();
    }

    /// Returns the next wake-up of the workers. The caller enables it before it reads the state: a wake-up between
    /// reading and waiting is not lost.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.work.notified()
    }

    pub(super) fn freed_slot(&self) -> Notified<'_> {
        self.worker_slots.freed()
    }

    /// Returns the number of workers, at most one per entry that fits. Each worker whose handler takes long, or blocks
    /// its thread past its time limit, gets a replacement.
    pub(super) fn workers(&self, context: &GroupContext) -> usize {
        context.workers().saturating_add(context.subscribers.without_slot(&context.group)).min(self.bounds.entries)
    }

    /// Takes the next entry for a worker. Returns also `true` if a task of the bus was woken.
    pub(super) fn take(
        &self,
        context: &GroupContext,
        worker: &Arc<Notify>,
        handlers: &GroupHandlers,
    ) -> (NextJob, bool) {
        if handlers.current.is_empty() {
            return (NextJob::Idle(None), false);
        }
        let workers = self.workers(context);
        self.update_and_wake(|state, now| {
            let slot = if state.startable() > 0 { self.worker_slots.take(workers) } else { None };
            state.next_job(worker, slot, workers, now, self.bounds)
        })
    }

    /// Waits until an entry does not run any more, as the consumer has released it.
    pub(super) async fn until_taken_over(&self, taken_over: &Notify, number: u64) {
        loop {
            taken_over.notified().await;
            // the notification may be for an earlier entry of this worker
            if !self.state.lock().is_running(number) {
                return;
            }
        }
    }

    pub(super) async fn sleep_until(&self, due: Option<Instant>) {
        match due {
            Some(at) => self.clock.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Returns `true` if a task of the bus was woken.
    pub(super) fn record_outcome(&self, number: u64, outcome: Outcome, context: &GroupContext) -> bool {
        self.update_and_wake(|state, now| state.record_outcome(number, outcome, &context.retry, now)).1
    }

    /// Returns the next suspect that may run.
    pub(super) fn next_suspect(&self) -> NextSuspect {
        self.update(|state, now| state.next_suspect(now, self.bounds))
    }

    /// Makes the bus persist that a suspect begins. Returns `false` if it is not in flight any more.
    pub(super) fn note_start(&self, number: u64, is_alone: bool) -> bool {
        let is_noted = self.state.lock().note_start(number, is_alone);
        if is_noted {
            self.outbox.notify();
        }
        is_noted
    }

    pub(super) fn take_started(&self, number: u64, worker: &Arc<Notify>) -> StartNote {
        self.state.lock().take_started(number, worker, self.clock.instant())
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
