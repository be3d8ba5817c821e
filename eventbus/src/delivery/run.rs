//! A run of a handler or projection for an event: its clocks, its permit, and what is logged of it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::{Dispatch, Span};

use super::watchdog;
use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent, shown::rfc3339},
    port::health::RunningHandler,
};

/// Target of the log lines of handlers: short, as each line names its span too.
pub(super) const LOG_TARGET: &str = "eventbus::handler";

/// The time after which a run is long: its task logs it, again after twice the time, and so on. The run releases its
/// slot, so that events of other aggregates are handled beside it.
pub(super) const LONG_RUN_AFTER: Duration = Duration::from_secs(10);

const BLOCKS: &str =
    "blocks its thread, where no time limit can end it: what does not await belongs in `tokio::task::spawn_blocking`";

/// A run: an event and its handler. The next run of its series reuses the value.
#[derive(Debug)]
pub(super) struct Run {
    handler: Name,
    group: Name,
    timeout: Option<Duration>,
    clock: SharedClock,
    /// The log subscriber of the task, for the watchdog.
    dispatch: Dispatch,
    span: Span,
    /// Locked: the task of the handler and the watchdog, a thread of its own, both change it.
    state: Mutex<RunState>,
}

#[derive(Debug)]
struct RunState {
    record: RecordedEvent,
    began: Instant,
    /// `None` while the run waits for the store's transaction, which does not count.
    since: Option<Instant>,
    /// Since when its thread polls the run without a pause. Real time: no clock frees a thread.
    polled_since: Option<std::time::Instant>,
    /// The blocked time after which the watchdog logs the run.
    log_at: Duration,
    /// Set if the run blocks its thread past its time limit.
    is_stuck: bool,
    /// Set if the run is long.
    is_long: bool,
    permit: Option<HandlerPermit>,
}

/// The permit of a run: its handler has as many as it may run at once.
#[derive(Debug)]
pub(crate) struct HandlerPermit {
    #[allow(dead_code, reason = "it is held, not read")]
    permit: OwnedSemaphorePermit,
    /// Set if the run keeps it however long it takes, unless the run blocks its thread past its time limit.
    is_kept: bool,
}

impl HandlerPermit {
    pub(crate) const fn new(permit: OwnedSemaphorePermit, is_kept: bool) -> Self {
        Self { permit, is_kept }
    }
}

impl RunState {
    fn new(record: RecordedEvent, permit: Option<HandlerPermit>, clock: &SharedClock) -> Self {
        let began = clock.instant();
        Self {
            record,
            began,
            since: Some(began),
            polled_since: None,
            log_at: LONG_RUN_AFTER,
            is_stuck: false,
            is_long: false,
            permit,
        }
    }
}

impl Run {
    pub(super) fn new(
        handler: Name,
        group: Name,
        timeout: Option<Duration>,
        clock: SharedClock,
        record: RecordedEvent,
        permit: Option<HandlerPermit>,
    ) -> Self {
        let state = Mutex::new(RunState::new(record, permit, &clock));
        let (dispatch, span) = (tracing::dispatcher::get_default(Dispatch::clone), Span::current());
        Self { handler, group, timeout, clock, dispatch, span, state }
    }

    /// Begins the next run in the place of this one, which has ended.
    pub(super) fn begin_next(&self, record: RecordedEvent, permit: Option<HandlerPermit>) {
        *self.state.lock() = RunState::new(record, permit, &self.clock);
    }

    pub(super) fn end(&self) {
        self.state.lock().permit = None;
    }

    pub(super) fn took(&self) -> Duration {
        self.state.lock().since.map_or(Duration::ZERO, |since| self.clock.elapsed(since))
    }

    /// Returns for how long its thread has polled the run without a pause.
    pub(super) fn blocked_for(&self) -> Duration {
        self.state.lock().polled_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Releases the slot of the run, and its permit unless the handler sets its own concurrency.
    pub(super) fn release_slot(&self) {
        let mut state = self.state.lock();
        state.is_long = true;
        state.permit.take_if(|permit| !permit.is_kept);
        drop(state);
        watchdog::notify_slot_freed();
    }

    pub(super) fn has_no_slot(&self) -> bool {
        let state = self.state.lock();
        state.is_stuck || state.is_long
    }

    /// Marks that a thread polls the run, until the guard is dropped.
    pub(super) fn begin_poll(&self) -> PollGuard<'_> {
        self.state.lock().polled_since = Some(std::time::Instant::now());
        PollGuard(self)
    }

    /// Stops the clock of the run until the guard is dropped; then the clock starts at zero again.
    pub(super) fn stop_clock(&self) -> UncountedTime<'_> {
        self.state.lock().since = None;
        UncountedTime(self)
    }

    fn record(&self) -> RecordedEvent {
        self.state.lock().record.clone()
    }

    pub(super) fn describe(&self) -> String {
        describe(&self.handler, &self.record())
    }

    pub(super) fn to_running_handler(&self, took: Duration) -> RunningHandler {
        let (record, began) = {
            let state = self.state.lock();
            (state.record.clone(), state.began)
        };
        RunningHandler {
            consumer: None,
            name: self.handler.to_string(),
            group: self.group.to_string(),
            event_type: record.event_type().to_string(),
            event_id: record.metadata().event_id().to_string(),
            since: rfc3339(self.clock.now() - self.clock.elapsed(began)),
            seconds: took.as_secs(),
            blocks_its_thread: self.blocked_for() >= LONG_RUN_AFTER,
        }
    }

    /// Logs the run if it blocks its thread, and takes its slot away; returns `true` if the slot became free.
    pub(super) fn check_blocked(&self) -> bool {
        let blocked = self.blocked_for();
        let mut state = self.state.lock();
        let is_stuck = !state.is_stuck && self.timeout.is_some_and(|timeout| blocked >= timeout);
        if is_stuck {
            state.is_stuck = true;
            state.permit = None;
        }
        let is_long = !state.is_long && blocked >= LONG_RUN_AFTER;
        if is_long {
            state.is_long = true;
            state.permit.take_if(|permit| !permit.is_kept);
        }
        let is_due = blocked >= state.log_at;
        if is_due {
            state.log_at = state.log_at.saturating_mul(2);
        }
        drop(state);
        if is_due {
            let log = || self.log(blocked, BLOCKS);
            tracing::dispatcher::with_default(&self.dispatch, || self.span.in_scope(log));
        }
        is_stuck || is_long
    }

    /// Logs the run; its span names handler and event, where there is one.
    pub(super) fn log(&self, took: Duration, what: &str) {
        let record = self.record();
        let metadata = record.metadata();
        let took = Duration::from_secs(took.as_secs());
        if self.span.has_field("handler") {
            tracing::warn!(target: LOG_TARGET, event_id = %metadata.event_id(), ?took, "handler {what}");
            return;
        }
        tracing::warn!(
            target: LOG_TARGET,
            handler = %self.handler, group = %self.group, event_type = %record.event_type(),
            aggregate = %metadata.stream(), event_id = %metadata.event_id(), ?took, "handler {what}"
        );
    }
}

pub(super) struct UncountedTime<'r>(&'r Run);

impl Drop for UncountedTime<'_> {
    fn drop(&mut self) {
        self.0.state.lock().since = Some(self.0.clock.instant());
    }
}

pub(super) struct PollGuard<'r>(&'r Run);

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.polled_since = None;
        state.is_stuck = false;
    }
}

pub(super) fn describe(name: &Name, record: &RecordedEvent) -> String {
    let (event_type, stream) = (record.event_type(), record.metadata().stream());
    format!("`{name}` with `{event_type}` of `{stream}`")
}
