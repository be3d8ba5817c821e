//! What a consumer has in hand: entries that were read and are not done with, and the workers that handle them.
//!
//! A bus takes entries in with [`InFlight::add`], runs [`InFlight::work`] as often as it wants entries handled at once, writes
//! down what came of them ([`InFlight::disposed`]), and says so ([`InFlight::release`]). Of entries that wait for a retry, and of
//! those parked behind them, only their ids, aggregates and times are kept: the bus reads them again when they are due
//! ([`InFlight::due`]).
//!
//! Keep: entries of one aggregate are handled one after the other, in the order they came, also over retries; the others
//! flow meanwhile.

mod group_context;
mod read_ahead;
mod state;
mod suspect;
#[cfg(test)]
mod tests;
mod worker_slots;
mod workers;

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{
    DeliveryAttempts, MessageId, OldestUnfinished, Outcome, RetryPolicy, Subscribers, attempts::RetryDecision,
};
use crate::domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::StreamId};

pub use group_context::{GroupContext, RunLock};
use state::{Bounds, InFlightState, WaitingLimit};
pub use worker_slots::WorkerSlots;

/// How many bytes of events a consumer holds unless it is told otherwise: 16 MiB.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// How many entries may wait for a retry, or be parked behind one that does, unless a consumer is told otherwise.
pub const DEFAULT_MAX_WAITING: usize = 100_000;

/// An entry that is to be read again, as its turn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DueEntry {
    /// What the bus calls it.
    pub id: MessageId,
    /// Whether it has waited until the time in its tries. Then it is about to be handled: take that time out of what is
    /// written down of it, so that it counts as in flight if the process ends.
    pub has_waited: bool,
}

/// An entry that a consumer has taken.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InFlightEntry {
    /// What the bus calls it.
    pub id: MessageId,
    /// The event.
    pub record: RecordedEvent,
    /// What came of it before.
    pub attempts: DeliveryAttempts,
    /// Whether it was pending on a process that has ended: it may have been the cause.
    pub is_redelivered: bool,
}

impl InFlightEntry {
    /// Whether it was in flight when its process ended, and is to run alone.
    #[must_use]
    pub fn is_suspect(&self, clock: &SharedClock) -> bool {
        self.attempts.is_suspect() || (self.is_redelivered && !self.attempts.is_waiting(clock))
    }

    /// What is to be written down before a [suspect](Self::is_suspect) is handled at once: that it begins, or that it is
    /// given up.
    #[must_use]
    pub fn begin(&mut self, is_alone: bool, clock: &SharedClock) -> Disposition {
        if self.is_redelivered && !self.attempts.is_waiting(clock) && !self.attempts.note_process_end(clock) {
            self.attempts.give_up_after_process_ends(clock);
            return Disposition::DeadLetter(self.attempts.clone());
        }
        self.attempts.begin(is_alone);
        Disposition::Begin(self.attempts.clone())
    }

    /// An entry that nobody had before.
    #[must_use]
    pub fn new(id: MessageId, record: RecordedEvent) -> Self {
        Self { id, record, attempts: DeliveryAttempts::default(), is_redelivered: false }
    }

    /// Says what came of it before.
    #[must_use]
    pub fn with_attempts(mut self, attempts: DeliveryAttempts) -> Self {
        self.attempts = attempts;
        self
    }

    /// Says that its process has ended, of it perhaps.
    #[must_use]
    pub fn redelivered(mut self) -> Self {
        self.is_redelivered = true;
        self
    }
}

/// What came of an entry, to be written down.
#[derive(Debug)]
#[non_exhaustive]
pub struct DisposedEntry {
    /// What the bus calls it.
    pub id: MessageId,
    /// The event; nothing if it is none.
    pub record: Option<RecordedEvent>,
    /// What is to be done.
    pub disposition: Disposition,
}

impl DisposedEntry {
    /// Says what is to be done with an entry.
    #[must_use]
    pub const fn new(id: MessageId, record: Option<RecordedEvent>, verdict: Disposition) -> Self {
        Self { id, record, disposition: verdict }
    }
}

/// What is to be done with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// All handlers have succeeded: acknowledge it, then [`InFlight::release`].
    Acknowledge {
        /// Whether something about its tries was written down before.
        has_attempts: bool,
    },
    /// No handler here wants it: acknowledge it and count it as skipped, or leave it to another consumer of the group
    /// that wants it, and write down these tries for that one; then [`InFlight::release`].
    Skip(DeliveryAttempts),
    /// It is tried again later and stays in hand: write its tries down, before it is read again.
    Retry {
        /// What came of it so far.
        attempts: DeliveryAttempts,
        /// When it is tried again, from now.
        after: Duration,
    },
    /// It is about to be handled, and may have ended the process that had it before: write its tries down, then
    /// [`InFlight::begin`].
    Begin(DeliveryAttempts),
    /// Its attempts are used up: make it a dead letter, then [`InFlight::release`].
    DeadLetter(DeliveryAttempts),
}

impl Disposition {
    /// What is to be done after the handlers ran, which is noted in `tries`. `None`: the group has no handlers, so
    /// nobody has decided about it.
    #[must_use]
    pub fn from_outcome(
        outcome: Outcome,
        delivery_attempts: &mut DeliveryAttempts,
        retry: &RetryPolicy,
        clock: &SharedClock,
    ) -> Option<Self> {
        let next = match outcome {
            Outcome::Unattended => return None,
            Outcome::Skipped => {
                delivery_attempts.reset_process_ends(); // nothing that could have ended the process has run
                return Some(Self::Skip(delivery_attempts.clone()));
            }
            Outcome::Handled { succeeded } => delivery_attempts.succeed(&succeeded),
            Outcome::Failed { failures, succeeded } => delivery_attempts.fail(&failures, &succeeded, retry, clock),
        };
        Some(match next {
            RetryDecision::Acknowledge => {
                Self::Acknowledge { has_attempts: *delivery_attempts != DeliveryAttempts::default() }
            }
            RetryDecision::RetryAfter(after) => Self::Retry { attempts: delivery_attempts.clone(), after },
            RetryDecision::DeadLetter => Self::DeadLetter(delivery_attempts.clone()),
        })
    }
}

/// What a consumer has in hand, shared between its tasks.
#[derive(Debug)]
pub struct InFlight {
    state: Mutex<InFlightState>,
    bounds: Bounds,
    clock: SharedClock,
    /// Tells all idle workers that there may be something to do: so one that finds more than it can do, or a delay that
    /// another does not know of, needs to tell nobody.
    work: Notify,
    /// Tells the bus that there is something to write down.
    outbox: Notify,
    /// Tells the bus that there may be room again.
    room: Notify,
    /// Tells the bus that something may be due.
    due: Notify,
    /// The group and who subscribes, once it is worked for.
    group: OnceLock<(Name, Subscribers)>,
    /// Whether workers handle entries.
    is_worked: AtomicBool,
    worker_slots: WorkerSlots,
}

impl InFlight {
    /// An empty hand that holds `entries` of `bytes` bytes together; at least one entry, however large.
    ///
    /// It is filled with what the workers finish in about a tenth of a second, at the pace that was measured last, and
    /// with two entries for each worker at first.
    #[must_use]
    pub fn new(entries: usize, bytes: usize, clock: SharedClock) -> Self {
        let (work, outbox, room, due) = (Notify::new(), Notify::new(), Notify::new(), Notify::new());
        let state = Mutex::new(InFlightState::new(clock.clone(), DEFAULT_MAX_WAITING));
        let bounds = Bounds { entries: entries.max(1), bytes };
        let (group, is_worked, places) = (OnceLock::new(), AtomicBool::new(false), WorkerSlots::default());
        Self { state, bounds, clock, work, outbox, room, due, group, is_worked, worker_slots: places }
    }

    /// Lets so many entries wait for a retry, or be parked behind one that does, at least one; [`DEFAULT_MAX_WAITING`] if left
    /// out. When so many do, nothing is to be read until a tenth of them is gone, and health has an alert.
    #[must_use]
    pub fn with_max_waiting(self, entries: usize) -> Self {
        *self.state() = InFlightState::new(self.clock.clone(), entries.max(1));
        self
    }

    /// Shares its places with other hands of the same consumer and group: together they handle as many entries at once as
    /// one of them would alone.
    #[must_use]
    pub fn with_slots(self, slots: &WorkerSlots) -> Self {
        Self { worker_slots: slots.clone(), ..self }
    }

    /// Holds aggregates back of which earlier events wait elsewhere: what comes of them is parked until each was
    /// [released](Self::unblock_streams) as often. What a worker has already is not.
    pub fn block_streams<'a>(&self, streams: impl IntoIterator<Item = &'a StreamId>) {
        let now = self.clock.instant();
        let mut state = self.state();
        for stream in streams {
            state.block_stream(stream, now);
        }
        self.notify_waiters(state);
    }

    /// Lets the events of aggregates go on that were [held back](Self::block_streams).
    pub fn unblock_streams<'a>(&self, streams: impl IntoIterator<Item = &'a StreamId>) {
        let now = self.clock.instant();
        let mut state = self.state();
        for stream in streams {
            state.unblock_stream(stream, now);
        }
        self.notify_waiters(state);
        self.work.notify_waiters();
    }

    /// How many entries have failed and are tried again, or are parked behind one of those.
    #[must_use]
    pub fn count_retried(&self) -> usize {
        self.state().retried()
    }

    /// Takes entries in that are not in hand already; says how many.
    pub fn add(&self, entries: impl IntoIterator<Item = InFlightEntry>) -> usize {
        // the caller's iterator may ask us about what is in hand
        let entries: Vec<_> = entries.into_iter().collect();
        let now = self.clock.instant();
        let mut state = self.state();
        let before = state.len();
        for entry in entries {
            state.add(entry, now);
        }
        let added = state.len() - before;
        self.notify_waiters(state);
        self.work.notify_waiters();
        added
    }

    /// Tells those who wait for it what there is to do, after the state was changed.
    fn notify_waiters(&self, mut state: MutexGuard<'_, InFlightState>) {
        let (has_more, has_room) = (state.unwritten() > 0, state.room(0, self.bounds) > 0);
        let (has_due, crowding) = (state.due_room(self.bounds) > 0, state.take_limit_change());
        drop(state);
        if has_more {
            self.outbox.notify_one();
        }
        if has_room {
            self.room.notify_one();
        }
        if has_due {
            self.due.notify_one();
        }
        let group = self.group.get().map(|(group, _)| tracing::field::display(group));
        match crowding {
            Some(WaitingLimit::Reached) => {
                self.work.notify_waiters(); // what is new is waited for no more
                tracing::error!(
                    group,
                    "too many events wait for a retry, or behind one that does: nothing is read until a tenth is gone"
                );
            }
            Some(WaitingLimit::Cleared) => tracing::info!(group, "fewer events wait for a retry: reading goes on"),
            None => {}
        }
    }

    /// Says whether there is more to be read that is new, and soon: as long as there is, what was read again is handled
    /// only now and then, and a worker rather waits. A bus that does not say so has it handled whenever a worker has
    /// nothing else to do.
    pub fn set_has_more(&self, has_more: bool) {
        let mut state = self.state();
        if state.set_has_more(has_more) {
            self.notify_waiters(state);
            self.work.notify_waiters();
        }
    }

    /// Waits until entries are to be read again.
    pub async fn due(&self) {
        while self.state().due_room(self.bounds) == 0 {
            self.due.notified().await;
        }
    }

    /// The entries that are to be read again now; each is handed out once. What came of them before must be written down
    /// by now. Each is to be [resumed](Self::resume), [not read](Self::return_due), [put off](Self::postpone), or
    /// [let go](Self::release).
    pub fn take_due(&self) -> Vec<DueEntry> {
        self.state().take_due(self.clock.instant(), self.bounds)
    }

    /// Goes on with entries that were read again, with what is written down of their tries.
    pub fn resume(&self, entries: impl IntoIterator<Item = InFlightEntry>) {
        let now = self.clock.instant();
        let mut state = self.state();
        for entry in entries {
            state.resume(entry, now);
        }
        self.notify_waiters(state);
        self.work.notify_waiters();
    }

    /// Says that entries could not be read again for now: they are still due.
    pub fn return_due<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        let mut state = self.state();
        for id in ids {
            state.not_read(id);
        }
        self.notify_waiters(state);
        self.work.notify_waiters();
    }

    /// Says that entries cannot be read again before some time has passed: they are due again then.
    pub fn postpone<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>, time: Duration) {
        let until = self.clock.instant() + time;
        let mut state = self.state();
        for id in ids {
            state.put_off(id, until);
        }
        self.notify_waiters(state);
        self.work.notify_waiters();
    }

    /// Whether so many entries wait that none is to be read.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.crowded().is_some()
    }

    /// How many wait if these are too many, and since when.
    pub(super) fn crowded(&self) -> Option<(usize, OffsetDateTime)> {
        self.state().crowded()
    }

    /// The delivery that failed first of those that are unfinished, and how many are unfinished.
    pub(super) fn oldest_unfinished(&self, group: &Name) -> Option<OldestUnfinished> {
        let (oldest, unfinished) = {
            let state = self.state();
            (state.oldest_failing(), state.len() as u64)
        };
        let (since, handlers) = oldest?;
        Some(OldestUnfinished::new(group.as_str(), &handlers, since, unfinished, &self.clock))
    }

    /// Takes in what no handler can ever handle, as it is no event.
    pub fn add_undecodable(&self, id: MessageId, attempts: DeliveryAttempts) {
        if self.state().add_undecodable(id, attempts) {
            self.outbox.notify_one();
        }
    }

    /// Whether an entry is in hand.
    #[must_use]
    pub fn contains(&self, id: &MessageId) -> bool {
        self.state().contains(id)
    }

    /// The entries in hand, unsorted.
    #[must_use]
    pub fn ids(&self) -> Vec<MessageId> {
        self.state().ids()
    }

    /// How many entries are in hand: being handled, waiting for a retry, parked, or not yet written down.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().len()
    }

    /// Whether nothing is in hand.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more entries it holds; those that wait do not count, but where too many do it holds no more.
    #[must_use]
    pub fn free(&self) -> usize {
        let state = self.state();
        if state.crowded().is_some() { 0 } else { state.free(self.bounds) }
    }

    /// Waits until it is to be filled, and says how many entries it holds then.
    pub async fn room(&self) -> usize {
        loop {
            let room = self.room_beside(0);
            if room > 0 {
                return room;
            }
            self.room.notified().await;
        }
    }

    /// How many entries are to be read now beside some that are about to be added; none if it is not to be filled.
    #[must_use]
    pub fn room_beside(&self, coming: usize) -> usize {
        self.state().room(coming, self.bounds)
    }

    /// Waits until something is to be written down. It is not to wait for more: what is written down late is handled
    /// again if the process ends meanwhile. What comes while it is written goes into the next write.
    pub async fn disposed(&self) {
        while self.state().unwritten() == 0 {
            self.outbox.notified().await;
        }
    }

    /// What came of entries, in order; each is handed out once.
    ///
    /// An entry that was skipped is handled instead if a handler of it has come meanwhile: the bus may have announced that
    /// handler already, and would not look again for what was left before. Only an event of its aggregate that has
    /// been started by then runs before it.
    pub fn take_disposed(&self) -> Vec<DisposedEntry> {
        let settled = self.state().drain();
        if !settled.iter().any(|settled| matches!(settled.disposition, Disposition::Skip(_))) {
            return settled;
        }
        let (skipped, settled): (Vec<_>, Vec<_>) = settled.into_iter().partition(|settled| self.has_handler(settled));
        if !skipped.is_empty() {
            let now = self.clock.instant();
            let mut state = self.state();
            // the last first, as each comes before the others of its aggregate
            for skipped in skipped.into_iter().rev() {
                state.handle_skipped(skipped, now);
            }
            self.notify_waiters(state);
            self.work.notify_waiters();
        }
        settled
    }

    /// Whether a handler has come of an entry that was skipped, and workers are there to handle it.
    fn has_handler(&self, settled: &DisposedEntry) -> bool {
        let DisposedEntry { record: Some(record), disposition: Disposition::Skip(_), .. } = settled else {
            return false;
        };
        let handle = |(group, subscribers): &(Name, Subscribers)| subscribers.handle(group, record.event_type());
        self.is_worked.load(Ordering::Acquire) && self.group.get().is_some_and(handle)
    }

    /// How many entries it reads ahead at the pace of its workers, those that run among them.
    #[must_use]
    pub fn read_ahead(&self) -> usize {
        self.state().read_ahead_window(self.bounds).1
    }

    /// It is written down that these are begun.
    pub fn begin<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        let mut state = self.state();
        for id in ids {
            state.begin(id);
        }
        drop(state);
        self.work.notify_waiters();
    }

    /// Lets entries go: they are done with, or someone else has taken them over. A handler that has one is cancelled.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a MessageId>) {
        let now = self.clock.instant();
        let mut state = self.state();
        for id in ids {
            state.remove(id, now);
        }
        let has_work = state.has_work();
        self.notify_waiters(state);
        self.room.notify_one();
        if has_work {
            self.work.notify_waiters();
        }
    }

    /// Lets go of everything that is neither being handled nor done with; tries that were to be written down still are.
    pub fn nack_idle(&self) -> Vec<MessageId> {
        self.nack_idle_if(|_| true)
    }

    /// Does the same with some entries only.
    pub fn nack_idle_if(&self, which: impl Fn(&MessageId) -> bool) -> Vec<MessageId> {
        let mut state = self.state();
        let given_back = state.remove_idle(which);
        self.notify_waiters(state);
        self.room.notify_one();
        self.work.notify_waiters();
        given_back
    }

    fn state(&self) -> MutexGuard<'_, InFlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
