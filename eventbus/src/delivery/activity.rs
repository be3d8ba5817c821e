//! The current runs of each handler and projection, and its last failure: for time limits, logs, health, and callers
//! that time out waiting for it.
//!
//! While a run awaits, its task logs it, and ends it at its time limit. While the run blocks its thread, the task can
//! do neither: the [`watchdog`](super::watchdog), a thread of its own, logs such a run.
//!
//! Invariant: no lock of this module is held while a handler runs; a run is over when its guard is dropped, however it
//! ended.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use time::OffsetDateTime;

use super::{
    run::{HandlerPermit, LOG_TARGET, LONG_RUN_AFTER, Run, describe},
    watchdog::{self, CheckBlocked},
};
use crate::{
    domain::{clock::SharedClock, metadata::Metadata, name::Name, record::RecordedEvent, shown::rfc3339},
    port::{
        delivery::{Delivery, HandlerError, HandlerErrorKind},
        health::{RunningHandler, WaitingForServer},
    },
};

/// The default time limit for one run of a handler, or of a method of a projection that can be run again.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

tokio::task_local! {
    static CURRENT_RUN: CurrentRun;
}

/// The run of the current task.
struct CurrentRun {
    run: Arc<Run>,
    activity: Arc<Activity>,
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
    /// Set if a run that has ended has recorded the fault: its delivery waits for a retry.
    is_fault_of_ended_run: bool,
    is_watched: bool,
}

impl Activity {
    /// Runs `handling` and watches it, see [`RunSeries::watch`].
    pub(crate) async fn watch(
        self: &Arc<Self>,
        handler: &Name,
        delivery: &Delivery,
        timeout: Option<Duration>,
        permit: Option<HandlerPermit>,
        handling: impl Future<Output = Result<(), HandlerError>>,
        clock: &SharedClock,
    ) -> Result<(), HandlerError> {
        let mut series = RunSeries::new(self, handler, delivery.group(), timeout, clock);
        series.watch(delivery.record(), permit, handling).await
    }

    fn register(self: &Arc<Self>, run: Arc<Run>) -> RunningGuard<'_> {
        let mut now = self.0.lock();
        now.runs.push(Arc::clone(&run));
        let is_watched = std::mem::replace(&mut now.is_watched, true);
        drop(now);
        if !is_watched {
            let activity = Arc::downgrade(self);
            watchdog::watch(activity);
        }
        RunningGuard { activity: self, run, has_result: false }
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
        now.is_fault_of_ended_run = now.server_fault.is_some();
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
    pub(crate) fn handling(&self) -> Option<String> {
        self.0.lock().runs.first().map(|run| run.describe())
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
        blocking.map(|run| run.describe()).collect()
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        self.0.lock().runs.clone()
    }
}

/// Runs of a task, one after the other, which share what does not change from event to event.
pub(crate) struct RunSeries {
    activity: Arc<Activity>,
    handler: Name,
    group: Name,
    timeout: Option<Duration>,
    clock: SharedClock,
    /// The last run.
    run: Option<Arc<Run>>,
}

impl RunSeries {
    pub(crate) fn new(
        activity: &Arc<Activity>,
        handler: &Name,
        group: &Name,
        timeout: Option<Duration>,
        clock: &SharedClock,
    ) -> Self {
        let (activity, handler, group) = (Arc::clone(activity), handler.clone(), group.clone());
        Self { activity, handler, group, timeout, clock: clock.clone(), run: None }
    }

    /// Runs `handling` and watches it: ends it after the time limit, not counting the time in
    /// [`without_timeout`]. The run holds `permit` until it ends or is long. A panic is a failure of the event.
    pub(crate) async fn watch(
        &mut self,
        record: &RecordedEvent,
        permit: Option<HandlerPermit>,
        handling: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        // code of the user also writes the text of an error, and drops a run at its time limit
        let handling = handling.map(|handled| handled.inspect_err(HandlerError::check_text));
        let run = self.begin(record.clone(), permit);
        let mut running = self.activity.register(Arc::clone(&run));
        let watched = AssertUnwindSafe(self.watch_unguarded(run, handling)).catch_unwind();
        let result = watched.await.unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic)));
        running.has_result = true;
        result
    }

    async fn watch_unguarded(
        &self,
        run: Arc<Run>,
        handling: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        let Self { activity, timeout, clock, .. } = self;
        let current = CurrentRun { run: Arc::clone(&run), activity: Arc::clone(activity) };
        let mut handling = pin!(CURRENT_RUN.scope(current, handling));
        let mut polled = pin!(poll_fn(|context| {
            let _in_poll = run.begin_poll();
            handling.as_mut().poll(context)
        }));
        // most runs end at their first poll, and need no timer
        if let Poll::Ready(result) = poll_fn(|context| Poll::Ready(polled.as_mut().poll(context))).await {
            return result;
        }
        let mut log_at = LONG_RUN_AFTER;
        loop {
            let left = |limit: Duration| limit.saturating_sub(run.took());
            tokio::select! {
                biased; // a run that ends at its time limit has ended
                result = &mut polled => return result,
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

    fn begin(&mut self, record: RecordedEvent, permit: Option<HandlerPermit>) -> Arc<Run> {
        if let Some(run) = &self.run {
            run.begin_next(record, permit);
            return Arc::clone(run);
        }
        let Self { handler, group, timeout, clock, run, .. } = self;
        let new = Run::new(handler.clone(), group.clone(), *timeout, clock.clone(), record, permit);
        Arc::clone(run.insert(Arc::new(new)))
    }
}

impl CheckBlocked for Activity {
    fn check_blocked(&self) -> bool {
        self.runs().iter().filter(|run| run.check_blocked()).count() > 0
    }
}

/// Records that the store cannot begin a transaction for the current run, because of this fault. Returns `true` if the
/// handler had no fault before.
pub(crate) fn note_server_fault(fault: String, clock: &SharedClock) -> bool {
    let Ok(activity) = CURRENT_RUN.try_with(|current| Arc::clone(&current.activity)) else {
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
    let run = CURRENT_RUN.try_with(|current| Arc::clone(&current.run)).ok();
    let _uncounted = run.as_deref().map(Run::stop_clock);
    waiting.await
}

/// Registers a run, until dropped.
struct RunningGuard<'a> {
    activity: &'a Activity,
    run: Arc<Run>,
    /// Set once [`Activity::ended`] can record how the run ended; unset if its future is dropped before, as when its
    /// entry is released.
    has_result: bool,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        let mut now = self.activity.0.lock();
        now.runs.retain(|run| !Arc::ptr_eq(run, &self.run));
        if !self.has_result && now.runs.is_empty() && !now.is_fault_of_ended_run {
            // no run waits for the database any more, so none would find out that it is back
            now.server_fault = None;
        }
        drop(now);
        self.run.end();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        domain::{
            record::NewEvent,
            stream::{StreamId, Version},
        },
        port::ServerFault,
    };

    /// An error whose text panics.
    #[derive(Debug)]
    pub(crate) struct WithoutText;

    impl std::fmt::Display for WithoutText {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no text")
        }
    }

    impl std::error::Error for WithoutText {}

    fn event() -> NewEvent {
        NewEvent::new(Name::from_static("OrderCreated"), 1, "{}")
    }

    fn of_order(id: &str, event: NewEvent) -> RecordedEvent {
        event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
    }

    /// Returns the error of a run with a time limit of a second.
    async fn error_of(handling: impl Future<Output = Result<(), HandlerError>>) -> HandlerError {
        let (activity, handler) = (Arc::<Activity>::default(), Name::from_static("mail"));
        let delivery = Delivery::new(of_order("1", event()), Name::from_static("default"));
        let timeout = Some(Duration::from_secs(1));
        let watched = activity.watch(&handler, &delivery, timeout, None, handling, &SharedClock::SYSTEM).await;
        assert!(activity.handling().is_none(), "the run is over");
        watched.unwrap_err()
    }

    #[tokio::test]
    async fn an_error_whose_text_panics_is_a_failure_of_its_event() {
        let error = error_of(async { Err(WithoutText.into()) }).await;
        assert_eq!((error.kind(), &*error.to_string()), (HandlerErrorKind::Panicked, "handler panicked: no text"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_when_its_time_limit_drops_it_is_a_failure_of_its_event() {
        struct Unfinished;

        impl Drop for Unfinished {
            fn drop(&mut self) {
                panic!("not finished")
            }
        }

        let error = error_of(async {
            let _unfinished = Unfinished;
            std::future::pending().await
        });
        let error = error.await;
        assert_eq!((error.kind(), &*error.to_string()), (HandlerErrorKind::Panicked, "handler panicked: not finished"));
    }

    /// Adds a run of `mail` that waits for its database, and returns its future.
    fn waiting_run(activity: &Arc<Activity>) -> impl Future<Output = Result<(), HandlerError>> + use<> {
        let (activity, handler) = (Arc::clone(activity), Name::from_static("mail"));
        async move {
            let delivery = Delivery::new(of_order("1", event()), Name::from_static("default"));
            let waiting = async {
                note_server_fault("no connection".into(), &SharedClock::SYSTEM);
                std::future::pending().await
            };
            activity.watch(&handler, &delivery, None, None, waiting, &SharedClock::SYSTEM).await
        }
    }

    #[tokio::test]
    async fn a_handler_waits_for_its_database_until_its_last_run_is_dropped() {
        let (activity, handler) = (Arc::<Activity>::default(), Name::from_static("mail"));
        let (mut first, mut second) = (Box::pin(waiting_run(&activity)), Box::pin(waiting_run(&activity)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(first);
        assert!(activity.waiting(&handler).is_some_and(|waiting| waiting.fault == "no connection"), "the other waits");
        drop(second);
        assert!(activity.waiting(&handler).is_none(), "no run waits");
    }

    #[tokio::test]
    async fn the_time_since_when_a_database_has_a_fault_outlasts_the_runs_that_fail_for_it() {
        let (activity, handler, clock) = (Arc::<Activity>::default(), Name::from_static("mail"), SharedClock::SYSTEM);
        let delivery = Delivery::new(of_order("1", event()), Name::from_static("default"));
        let fail = async || {
            let handling = async { Err(HandlerError::from("down").with_server_fault(ServerFault::new("down"))) };
            let result = activity.watch(&handler, &delivery, None, None, handling, &clock).await;
            activity.ended(&handler, delivery.record(), &result, &clock);
            activity.0.lock().server_fault.as_ref().expect("the database has a fault").0
        };
        let since = fail().await;
        assert_eq!(fail().await, since);
        // a further run that is dropped does not end the fault of the delivery that waits for its retry
        let mut dropped = Box::pin(waiting_run(&activity));
        assert!(dropped.as_mut().now_or_never().is_none());
        drop(dropped);
        assert_eq!(activity.0.lock().server_fault.as_ref().map(|fault| fault.0), Some(since));
    }

    /// An id is unique within its stream only.
    #[test]
    fn a_failure_is_over_when_the_same_event_succeeds_and_not_one_of_another_stream() {
        let (activity, handler, clock) = (Activity::default(), Name::from_static("mail"), SharedClock::SYSTEM);
        let event = event();
        let of_order = |id: &str| of_order(id, event.clone());
        activity.ended(&handler, &of_order("1"), &Err(HandlerError::from("no such mailbox")), &clock);
        activity.ended(&handler, &of_order("2"), &Ok(()), &clock);
        assert!(activity.failure(&handler).is_some_and(|failure| failure.ends_with("no such mailbox")));
        activity.ended(&handler, &of_order("1"), &Ok(()), &clock);
        assert_eq!(activity.failure(&handler), None);
    }
}
