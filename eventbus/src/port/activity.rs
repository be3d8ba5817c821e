//! What a handler or projection runs at the moment, and what it failed at last: for time limits, logs, health and those who
//! wait for it in vain.
//!
//! One that awaits is ended by its time limit, and logged by its own task. One that blocks its thread can be neither: the
//! [`watchdog`](super::watchdog), a thread of its own, says so.
//!
//! Keep: nothing here is locked while a handler runs; a run is over when its guard goes, whatever ended it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::{Dispatch, Span};

use super::{Delivery, HandlerError, HandlerErrorKind, RunningHandler, WaitingForServer, watchdog};
use crate::domain::{clock::SharedClock, name::Name, record::RecordedEvent};

/// How long one run of a handler, or of a method of a projection that may be run again, may take unless its attribute says
/// otherwise.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A run that takes so long is logged while it lasts, again after twice the time, and so on. It gives its place up, so that
/// events of other aggregates are handled beside it.
pub(super) const LONG_RUN_AFTER: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// The run that the current task is in.
    static CURRENT_RUN: Arc<Run>;
}

/// What a handler or projection runs at the moment, and what it failed at last.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<ActivityState>);

#[derive(Debug, Default)]
struct ActivityState {
    /// The runs, the oldest first.
    runs: Vec<Arc<Run>>,
    failed: Option<(RecordedEvent, String)>,
    /// Since when the database has a fault, and which.
    server_fault: Option<(OffsetDateTime, String)>,
    is_watched: bool,
}

/// One run: an event and who handles it.
#[derive(Debug)]
pub(crate) struct Run {
    activity: Weak<Activity>,
    handler: Name,
    group: Name,
    record: RecordedEvent,
    began_at: OffsetDateTime,
    timeout: Option<Duration>,
    clock_source: SharedClock,
    clock: Mutex<RunClock>,
    /// Where the task logs, for the watchdog.
    dispatch: Dispatch,
    span: Span,
}

#[derive(Debug)]
struct RunClock {
    /// `None` while it waits for the store's transaction, which does not count.
    since: Option<Instant>,
    /// Since when its thread is in it without a pause. Real time: no clock frees a thread.
    polled_since: Option<std::time::Instant>,
    /// When the watchdog logs it.
    log_at: Duration,
    /// Whether it blocks its thread for longer than it may take.
    is_stuck: bool,
    /// Whether it takes long.
    is_long: bool,
    permit: Option<HandlerPermit>,
}

/// The place of a run among those that its handler may run at once.
#[derive(Debug)]
pub(crate) struct HandlerPermit {
    #[allow(dead_code, reason = "it is held, not read")]
    permit: OwnedSemaphorePermit,
    /// Whether a run keeps it however long it takes, unless it blocks its thread for longer than it may take.
    is_kept: bool,
}

impl HandlerPermit {
    pub(crate) const fn new(permit: OwnedSemaphorePermit, is_kept: bool) -> Self {
        Self { permit, is_kept }
    }
}

/// What a run took longer than.
#[derive(Debug)]
pub(crate) struct TookTooLong(pub(crate) Duration);

impl Activity {
    /// Runs `handling` and watches over it: ends it after `timeout`, the time in [`without_timeout`] left out. It holds `turn`
    /// until it ends or has run for long.
    pub(crate) async fn watch<T>(
        self: &Arc<Self>,
        who: &Name,
        delivery: &Delivery,
        timeout: Option<Duration>,
        turn: Option<HandlerPermit>,
        handling: impl Future<Output = T>,
        clock: &SharedClock,
    ) -> Result<T, TookTooLong> {
        let running = self.begin(who, delivery, timeout, turn, clock);
        let run = Arc::clone(&running.run);
        let mut handling = pin!(CURRENT_RUN.scope(Arc::clone(&run), handling));
        let mut polled = pin!(poll_fn(|context| {
            let _in_poll = PollGuard::new(&run);
            handling.as_mut().poll(context)
        }));
        let mut log_at = LONG_RUN_AFTER;
        loop {
            let left = |limit: Duration| limit.saturating_sub(run.took());
            tokio::select! {
                biased;
                output = &mut polled => return Ok(output),
                () = clock.sleep(left(timeout.unwrap_or(Duration::MAX))) => {}
                () = clock.sleep(left(log_at)) => {}
            }
            let took = run.took();
            if let Some(timeout) = timeout.filter(|timeout| took >= *timeout) {
                return Err(TookTooLong(timeout));
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
        who: &Name,
        delivery: &Delivery,
        timeout: Option<Duration>,
        handler_permit: Option<HandlerPermit>,
        clock: &SharedClock,
    ) -> RunningGuard<'_> {
        let since = Some(clock.instant());
        let run = Arc::new(Run {
            activity: Arc::downgrade(self),
            handler: who.clone(),
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
                permit: handler_permit,
            }),
            dispatch: tracing::dispatcher::get_default(Dispatch::clone),
            span: Span::current(),
        });
        let mut now = self.state();
        now.runs.push(Arc::clone(&run));
        let is_watched = std::mem::replace(&mut now.is_watched, true);
        drop(now);
        if !is_watched {
            watchdog::watch(self);
        }
        RunningGuard { activity: self, run }
    }

    /// Notes how a run ended.
    pub(crate) fn ended(
        &self,
        who: &Name,
        record: &RecordedEvent,
        result: &Result<(), HandlerError>,
        clock: &SharedClock,
    ) {
        let mut now = self.state();
        let fault = match result {
            Ok(()) => {
                let event_id = record.metadata().event_id();
                now.failed.take_if(|(failed, _)| failed.metadata().event_id() == event_id);
                None
            }
            // nothing was learnt of the database
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
            tracing::info!(handler = %who, ?lasted, "handler goes on, its database has no fault any more");
        }
    }

    /// What the handler called `name` waits for, if its database has a fault.
    pub(crate) fn waiting(&self, name: &Name) -> Option<WaitingForServer> {
        let now = self.state();
        let (since, fault) = now.server_fault.as_ref()?;
        Some(WaitingForServer { name: name.to_string(), fault: fault.clone(), since: rfc3339(*since) })
    }

    /// What it is handling, in words.
    pub(crate) fn handling(&self, name: &Name) -> Option<String> {
        self.state().runs.first().map(|run| describe(name, &run.record))
    }

    /// What the subscriber called `name` failed at last and has not succeeded with since, and why, in words.
    pub(crate) fn failure(&self, name: &Name) -> Option<String> {
        let now = self.state();
        let (record, error) = now.failed.as_ref()?;
        Some(format!("{}: {error}", describe(name, record)))
    }

    /// The run that takes longest, if it takes long.
    pub(crate) fn long_run(&self) -> Option<RunningHandler> {
        let runs = self.runs();
        let took = runs.iter().map(|run| (run.took(), run)).max_by_key(|(took, _)| *took);
        took.filter(|(took, _)| *took >= LONG_RUN_AFTER).map(|(took, run)| run.to_running_handler(took))
    }

    /// How many runs have given their places up: those that take long, and those that block their threads for longer than
    /// they may take.
    pub(crate) fn without_slot(&self) -> usize {
        self.runs().iter().filter(|run| run.has_no_slot()).count()
    }

    /// The runs that block a thread at the moment, in words: nothing can end them.
    pub(crate) fn blocking(&self) -> Vec<String> {
        let runs = self.runs();
        let blocking = runs.iter().filter(|run| run.blocked_for() >= Duration::from_secs(1));
        blocking.map(|run| describe(&run.handler, &run.record)).collect()
    }

    /// Logs runs that block their threads. Returns `true` if one gives its place up now.
    pub(super) fn check_blocked(&self) -> bool {
        self.runs().iter().filter(|run| run.check_blocked()).count() > 0
    }

    fn runs(&self) -> Vec<Arc<Run>> {
        self.state().runs.clone()
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        lock(&self.0)
    }
}

impl Run {
    fn took(&self) -> Duration {
        self.clock().since.map_or(Duration::ZERO, |since| self.clock_source.elapsed(since))
    }

    /// How long its thread is in it without a pause.
    fn blocked_for(&self) -> Duration {
        self.clock().polled_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Lets another event be handled beside it, unless its handler says how many it handles at once.
    fn release_slot(&self) {
        let mut clock = self.clock();
        clock.is_long = true;
        clock.permit.take_if(|turn| !turn.is_kept);
        drop(clock);
        watchdog::notify_slot_freed();
    }

    fn has_no_slot(&self) -> bool {
        let clock = self.clock();
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
        let mut clock = self.clock();
        let is_stuck = !clock.is_stuck && self.timeout.is_some_and(|timeout| blocked >= timeout);
        if is_stuck {
            clock.is_stuck = true;
            clock.permit = None;
        }
        let is_long = !clock.is_long && blocked >= LONG_RUN_AFTER;
        if is_long {
            clock.is_long = true;
            clock.permit.take_if(|turn| !turn.is_kept);
        }
        let is_due = blocked >= clock.log_at;
        if is_due {
            clock.log_at = clock.log_at.saturating_mul(2);
        }
        drop(clock);
        if is_due {
            let log = || self.log(blocked, "blocks its thread, where no time limit can end it");
            tracing::dispatcher::with_default(&self.dispatch, || self.span.in_scope(log));
        }
        is_stuck || is_long
    }

    fn log(&self, took: Duration, what: &str) {
        let metadata = self.record.metadata();
        let took = Duration::from_secs(took.as_secs());
        tracing::warn!(
            handler = %self.handler, group = %self.group, event_type = %self.record.event_type(),
            aggregate = %metadata.stream(), event_id = %metadata.event_id(), ?took, "handler {what}"
        );
    }

    fn clock(&self) -> MutexGuard<'_, RunClock> {
        lock(&self.clock)
    }
}

/// Notes that the store cannot begin a transaction for the current run, because of this fault. Returns `true` if no run of
/// the handler had met one before.
pub(crate) fn note_server_fault(fault: String, clock: &SharedClock) -> bool {
    let Some(activity) = CURRENT_RUN.try_with(|run| run.activity.upgrade()).ok().flatten() else {
        return true;
    };
    let mut now = activity.state();
    let former = now.server_fault.as_ref().map(|(since, _)| *since);
    now.server_fault = Some((former.unwrap_or_else(|| clock.now()), fault));
    former.is_none()
}

/// Awaits what the time limit of the current run does not count, as the wait for a store that is away.
pub(crate) async fn without_timeout<T>(waiting: impl Future<Output = T>) -> T {
    let run = CURRENT_RUN.try_with(Arc::clone).ok();
    let _paused = run.as_deref().map(UncountedTime::new);
    waiting.await
}

/// While it is there, the time of a run is not counted; afterwards it begins anew.
struct UncountedTime<'r>(&'r Run);

impl<'r> UncountedTime<'r> {
    fn new(run: &'r Run) -> Self {
        run.clock().since = None;
        Self(run)
    }
}

impl Drop for UncountedTime<'_> {
    fn drop(&mut self) {
        self.0.clock().since = Some(self.0.clock_source.instant());
    }
}

/// While it is there, a thread is in the handler.
struct PollGuard<'r>(&'r Run);

impl<'r> PollGuard<'r> {
    fn new(run: &'r Run) -> Self {
        run.clock().polled_since = Some(std::time::Instant::now());
        Self(run)
    }
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        let mut clock = self.0.clock();
        clock.polled_since = None;
        clock.is_stuck = false;
    }
}

/// While it is there, an event is being handled.
struct RunningGuard<'a> {
    activity: &'a Activity,
    run: Arc<Run>,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.activity.state().runs.retain(|run| !Arc::ptr_eq(run, &self.run));
        self.run.clock().permit = None;
    }
}

fn describe(name: &Name, record: &RecordedEvent) -> String {
    let (event_type, stream) = (record.event_type(), record.metadata().stream());
    format!("`{name}` with `{event_type}` of `{stream}`")
}

/// A time as reports show it.
pub(crate) fn rfc3339(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
