//! The current runs of each handler and projection, and its last failure: for time limits, logs, health, and callers
//! that time out waiting for it.
//!
//! The task of a run that awaits ends it at its time limit, and logs it. It can do neither while the run blocks its
//! thread: the [`watchdog`](super::watchdog), a thread of its own, logs such a run.
//!
//! Invariant: no lock of this module is held while a handler runs; a run is over when its guard is dropped, however it
//! ended.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::{Dispatch, Span};

use super::watchdog::{self, CheckBlocked};
use crate::{
    domain::{clock::SharedClock, metadata::Metadata, name::Name, record::RecordedEvent, shown::rfc3339},
    port::{
        delivery::{Delivery, HandlerError, HandlerErrorKind},
        health::{RunningHandler, WaitingForServer},
    },
};

/// Target of the log lines of handlers: short, as each line names its span too.
pub(super) const LOG_TARGET: &str = "eventbus::handler";

/// Default time limit for one run of a handler, or of a method of a projection that can be run again.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The time after which a run is long: its task logs it, again after twice the time, and so on. The run releases its
/// slot, so that events of other aggregates are handled beside it.
const LONG_RUN_AFTER: Duration = Duration::from_secs(10);

const BLOCKS: &str =
    "blocks its thread, where no time limit can end it: what does not await belongs in `tokio::task::spawn_blocking`";

tokio::task_local! {
    /// The run of the current task.
    static CURRENT_RUN: Arc<Run>;
}

/// The current runs of a handler or projection, and its last failure.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<ActivityState>);

#[derive(Debug, Default)]
struct ActivityState {
    /// The runs, the oldest first.
    runs: Vec<Arc<Run>>,
    failed: Option<(RecordedEvent, String)>,
    /// Since when its database has a fault, and the fault.
    server_fault: Option<(OffsetDateTime, String)>,
    is_watched: bool,
}

/// One run: an event and its handler.
#[derive(Debug)]
pub(crate) struct Run {
    activity: Weak<Activity>,
    handler: Name,
    group: Name,
    record: RecordedEvent,
    began_at: OffsetDateTime,
    timeout: Option<Duration>,
    clock_source: SharedClock,
    /// Locked: the task of the handler and the watchdog, a thread of its own, both change it.
    clock: Mutex<RunClock>,
    /// The log subscriber of the task, for the watchdog.
    dispatch: Dispatch,
    span: Span,
}

#[derive(Debug)]
struct RunClock {
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

impl Activity {
    /// Runs `handling` and watches it: ends it after `timeout`, not counting the time in [`without_timeout`]. The run
    /// holds `permit` until it ends or is long.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        handler: &Name,
        delivery: &Delivery,
        timeout: Option<Duration>,
        permit: Option<HandlerPermit>,
        handling: impl Future<Output = Result<(), HandlerError>>,
        clock: &SharedClock,
    ) -> Result<(), HandlerError> {
        let running = self.begin(handler, delivery, timeout, permit, clock);
        let run = Arc::clone(&running.run);
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let mut handling = pin!(CURRENT_RUN.scope(Arc::clone(&run), handling));
        let mut polled = pin!(poll_fn(|context| {
            let _in_poll = PollGuard::new(&run);
            handling.as_mut().poll(context)
        }));
        let to_result =
            |output: std::thread::Result<_>| output.unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic)));
        // most runs end at their first poll, and need no timer
        if let Poll::Ready(output) = poll_fn(|context| Poll::Ready(polled.as_mut().poll(context))).await {
            return to_result(output);
        }
        let mut log_at = LONG_RUN_AFTER;
        loop {
            let left = |limit: Duration| limit.saturating_sub(run.took());
            tokio::select! {
                biased; // a run that ends at its time limit has ended
                output = &mut polled => return to_result(output),
                () = clock.sleep(left(timeout.unwrap_or(Duration::MAX))) => {}
                () = clock.sleep(left(log_at)) => {}
            }
            let took = run.took();
            if let Some(timeout) = timeout.filter(|timeout| took >= *timeout) {
                return Err(HandlerError::timed_out(timeout));
            }
            if took >= log_at {
                run.log(took, "still runs");
                run.release_slot();
                log_at = log_at.saturating_mul(2);
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        handler: &Name,
        delivery: &Delivery,
        timeout: Option<Duration>,
        permit: Option<HandlerPermit>,
        clock: &SharedClock,
    ) -> RunningGuard<'_> {
        let since = Some(clock.instant());
        let run = Arc::new(Run {
            activity: Arc::downgrade(self),
            handler: handler.clone(),
            group: delivery.group().clone(),
            record: delivery.record().clone(),
            began_at: clock.now(),
            timeout,
            clock_source: clock.clone(),
            clock: Mutex::new(RunClock {
                since,
                polled_since: None,
                log_at: LONG_RUN_AFTER,
                is_stuck: false,
                is_long: false,
                permit,
            }),
            dispatch: tracing::dispatcher::get_default(Dispatch::clone),
            span: Span::current(),
        });
        let mut now = self.0.lock();
        now.runs.push(Arc::clone(&run));
        let is_watched = std::mem::replace(&mut now.is_watched, true);
        drop(now);
        if !is_watched {
            let activity = Arc::downgrade(self);
            watchdog::watch(activity);
        }
        RunningGuard { activity: self, run }
    }

    /// Records how a run ended.
    pub(crate) fn ended(
        &self,
        handler: &Name,
        record: &RecordedEvent,
        result: &Result<(), HandlerError>,
        clock: &SharedClock,
    ) {
        let mut now = self.0.lock();
        let fault = match result {
            Ok(()) => {
                let is_same = |one: &Metadata, other: &Metadata| {
                    (one.event_id(), one.stream()) == (other.event_id(), other.stream())
                };
                now.failed.take_if(|(failed, _)| is_same(failed.metadata(), record.metadata()));
                None
            }
            // the handler did not reach its database, so the fault stays
            Err(error) if error.kind() == HandlerErrorKind::NotBegun => return,
            Err(error) => {
                now.failed = Some((record.clone(), error.to_string()));
                error.server_fault().map(ToString::to_string)
            }
        };
        let since = now.server_fault.as_ref().map(|(since, _)| *since);
        now.server_fault = fault.map(|fault| (since.unwrap_or_else(|| clock.now()), fault));
        let over = since.filter(|_| now.server_fault.is_none());
        drop(now);
        if let Some(since) = over {
            let lasted = (clock.now() - since).unsigned_abs();
            tracing::info!(target: LOG_TARGET, %handler, ?lasted, "handler goes on, its database has no fault any more");
        }
    }

    /// Returns the database fault that the handler called `name` waits for.
    pub(crate) fn waiting(&self, name: &Name) -> Option<WaitingForServer> {
        let now = self.0.lock();
        let (since, fault) = now.server_fault.as_ref()?;
        Some(WaitingForServer { name: name.to_string(), fault: fault.clone(), since: rfc3339(*since) })
    }

    /// Describes the oldest current run.
    pub(crate) fn handling(&self, name: &Name) -> Option<String> {
        self.0.lock().runs.first().map(|run| describe(name, &run.record))
    }

    /// Describes the last failure of the subscriber called `name`; `None` if it has succeeded with that event since.
    pub(crate) fn failure(&self, name: &Name) -> Option<String> {
        let now = self.0.lock();
        let (record, error) = now.failed.as_ref()?;
        Some(format!("{}: {error}", describe(name, record)))
    }

    /// Returns the longest run, if it is long.
    pub(crate) fn long_run(&self) -> Option<RunningHandler> {
        let runs = self.runs();
        let took = runs.iter().map(|run| (run.took(), run)).max_by_key(|(took, _)| *took);
        took.filter(|(took, _)| *took >= LONG_RUN_AFTER).map(|(took, run)| run.to_running_handler(took))
    }

    /// Returns the number of runs.
    #[cfg(feature = "testkit")]
    pub(crate) fn running(&self) -> usize {
        self.0.lock().runs.len()
    }

    /// Returns the number of runs without a slot: those that are long, or block their threads past their time limits.
    pub(crate) fn without_slot(&self) -> usize {
        self.runs().iter().filter(|run| run.has_no_slot()).count()
    }

    /// Describes the runs that block a thread at the moment: no time limit can end them.
    pub(crate) fn blocking(&self) -> Vec<String> {
        let runs = self.runs();
        let blocking = runs.iter().filter(|run| run.blocked_for() >= Duration::from_secs(1));
        blocking.map(|run| describe(&run.handler, &run.record)).collect()
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        self.0.lock().runs.clone()
    }
}

impl CheckBlocked for Activity {
    fn check_blocked(&self) -> bool {
        self.runs().iter().filter(|run| run.check_blocked()).count() > 0
    }
}

impl Run {
    fn took(&self) -> Duration {
        self.clock.lock().since.map_or(Duration::ZERO, |since| self.clock_source.elapsed(since))
    }

    /// Returns for how long its thread has polled the run without a pause.
    fn blocked_for(&self) -> Duration {
        self.clock.lock().polled_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Releases the slot of the run, and its permit unless the handler sets its own concurrency.
    fn release_slot(&self) {
        let mut clock = self.clock.lock();
        clock.is_long = true;
        clock.permit.take_if(|permit| !permit.is_kept);
        drop(clock);
        watchdog::notify_slot_freed();
    }

    fn has_no_slot(&self) -> bool {
        let clock = self.clock.lock();
        clock.is_stuck || clock.is_long
    }

    fn to_running_handler(&self, took: Duration) -> RunningHandler {
        RunningHandler {
            consumer: None,
            name: self.handler.to_string(),
            group: self.group.to_string(),
            event_type: self.record.event_type().to_string(),
            event_id: self.record.metadata().event_id().to_string(),
            since: rfc3339(self.began_at),
            seconds: took.as_secs(),
            blocks_its_thread: self.blocked_for() >= LONG_RUN_AFTER,
        }
    }

    fn check_blocked(&self) -> bool {
        let blocked = self.blocked_for();
        let mut clock = self.clock.lock();
        let is_stuck = !clock.is_stuck && self.timeout.is_some_and(|timeout| blocked >= timeout);
        if is_stuck {
            clock.is_stuck = true;
            clock.permit = None;
        }
        let is_long = !clock.is_long && blocked >= LONG_RUN_AFTER;
        if is_long {
            clock.is_long = true;
            clock.permit.take_if(|permit| !permit.is_kept);
        }
        let is_due = blocked >= clock.log_at;
        if is_due {
            clock.log_at = clock.log_at.saturating_mul(2);
        }
        drop(clock);
        if is_due {
            let log = || self.log(blocked, BLOCKS);
            tracing::dispatcher::with_default(&self.dispatch, || self.span.in_scope(log));
        }
        is_stuck || is_long
    }

    /// Logs the run; its span names handler and event, where there is one.
    fn log(&self, took: Duration, what: &str) {
        let metadata = self.record.metadata();
        let took = Duration::from_secs(took.as_secs());
        if self.span.has_field("handler") {
            tracing::warn!(target: LOG_TARGET, event_id = %metadata.event_id(), ?took, "handler {what}");
            return;
        }
        tracing::warn!(
            target: LOG_TARGET,
            handler = %self.handler, group = %self.group, event_type = %self.record.event_type(),
            aggregate = %metadata.stream(), event_id = %metadata.event_id(), ?took, "handler {what}"
        );
    }
}

/// Records that the store cannot begin a transaction for the current run, because of this fault. Returns `true` if the
/// handler had no fault before.
pub(crate) fn note_server_fault(fault: String, clock: &SharedClock) -> bool {
    let Some(activity) = CURRENT_RUN.try_with(|run| run.activity.upgrade()).ok().flatten() else {
        return true;
    };
    let mut now = activity.0.lock();
    let former = now.server_fault.as_ref().map(|(since, _)| *since);
    now.server_fault = Some((former.unwrap_or_else(|| clock.now()), fault));
    former.is_none()
}

/// Awaits `waiting`, such as the wait for an unreachable store, without counting it in the time limit of the current
/// run.
pub(crate) async fn without_timeout<T>(waiting: impl Future<Output = T>) -> T {
    let run = CURRENT_RUN.try_with(Arc::clone).ok();
    let _paused = run.as_deref().map(UncountedTime::new);
    waiting.await
}

/// Stops the clock of a run, until dropped; then the clock starts at zero again.
struct UncountedTime<'r>(&'r Run);

impl<'r> UncountedTime<'r> {
    fn new(run: &'r Run) -> Self {
        run.clock.lock().since = None;
        Self(run)
    }
}

impl Drop for UncountedTime<'_> {
    fn drop(&mut self) {
        self.0.clock.lock().since = Some(self.0.clock_source.instant());
    }
}

/// Marks that a thread polls the run, until dropped.
struct PollGuard<'r>(&'r Run);

impl<'r> PollGuard<'r> {
    fn new(run: &'r Run) -> Self {
        run.clock.lock().polled_since = Some(std::time::Instant::now());
        Self(run)
    }
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.clock.lock();
        clock.polled_since = None;
        clock.is_stuck = false;
    }
}

/// Registers a run, until dropped.
struct RunningGuard<'a> {
    activity: &'a Activity,
    run: Arc<Run>,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.activity.0.lock().runs.retain(|run| !Arc::ptr_eq(run, &self.run));
        self.run.clock.lock().permit = None;
    }
}

fn describe(name: &Name, record: &RecordedEvent) -> String {
    let (event_type, stream) = (record.event_type(), record.metadata().stream());
    format!("`{name}` with `{event_type}` of `{stream}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        record::NewEvent,
        stream::{StreamId, Version},
    };

    /// An id is unique within its stream only.
    #[test]
    fn a_failure_is_over_when_the_same_event_succeeds_and_not_one_of_another_stream() {
        let (activity, handler, clock) = (Activity::default(), Name::from_static("mail"), SharedClock::SYSTEM);
        let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
        let of_order = |id: &str| {
            let stream = StreamId::parse("Order", id).unwrap();
            event.clone().recorded_as(stream, Version::FIRST, None)
        };
        activity.ended(&handler, &of_order("1"), &Err(HandlerError::from("no such mailbox")), &clock);
        activity.ended(&handler, &of_order("2"), &Ok(()), &clock);
        assert!(activity.failure(&handler).is_some_and(|failure| failure.ends_with("no such mailbox")));
        activity.ended(&handler, &of_order("1"), &Ok(()), &clock);
        assert_eq!(activity.failure(&handler), None);
    }
}
