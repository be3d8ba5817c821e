//! Runs the handlers of a group for one delivery; shared by all buses.
//!
//! Invariant: every handler of the group that has not succeeded runs, also after an earlier one failed; a panic, or a
//! run past its time limit, is a failure of that delivery, never of the consumer.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};

use super::{
    BoxFuture, Delivery, DeliveryAttempts, HandlerError, HandlerStart, RunningHandler, WaitingForServer,
    activity::{Activity, DEFAULT_TIMEOUT, HandlerPermit, TookTooLong},
};
use crate::domain::{clock::SharedClock, event::EventFilter, name::Name};

/// The function behind a subscriber.
pub type HandleFn = dyn for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync;

/// Makes the span in which a handler runs.
pub type SpanFn = dyn Fn(&Delivery, &Name) -> Span + Send + Sync;

/// Creates the span in which the handler with that name runs: log lines of the handler begin with it.
///
/// The span is short, for it precedes each message, and has the error level, so that no message is logged without it.
#[must_use]
pub fn handler_span(delivery: &Delivery, handler: &Name) -> Span {
    let metadata = delivery.metadata();
    tracing::error_span!(
        "handle",
        group = %delivery.group(),
        %handler,
        event = %metadata.event_type(),
        aggregate = %metadata.stream(),
    )
}

/// Options of a handler, from its attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// The number of retries of a failed delivery; the bus decides if `None`.
    pub retries: Option<u32>,
    /// The time limit for one attempt; 60 s if `None`. The wait for an unreachable store does not count.
    pub timeout: Option<Duration>,
    /// The number of deliveries that run at once, each of its own aggregate, however long they take. If `None` the bus
    /// decides, and a run that awaits for 10 s lets the next one begin beside it.
    pub concurrency: Option<u32>,
    /// The start of the handler when its group is new, or skipped its events long ago; the bus decides if `None`.
    pub start: Option<HandlerStart>,
}

impl HandlerOptions {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(retries: Option<u32>, timeout_ms: Option<u64>, concurrency: Option<u32>) -> Self {
        let timeout = match timeout_ms {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        };
        Self { retries, timeout, concurrency, start: None }
    }

    /// Sets where the handler begins.
    #[must_use]
    pub const fn starting(mut self, start: HandlerStart) -> Self {
        self.start = Some(start);
        self
    }
}

/// A named function that handles events: of a handler, a projection, or a closure.
#[derive(Clone)]
pub struct Subscriber {
    name: Name,
    events: EventFilter,
    options: HandlerOptions,
    handle: Arc<HandleFn>,
    activity: Arc<Activity>,
    /// One permit for each delivery that may run at once.
    permits: Arc<OnceLock<Arc<Semaphore>>>,
}

impl Subscriber {
    /// Creates a subscriber; logs and dead letters show `name`.
    pub fn new<F>(name: Name, events: EventFilter, handle: F) -> Self
    where
        F: for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync + 'static,
    {
        let options = HandlerOptions::default();
        let (activity, permits) = (Arc::default(), Arc::default());
        Self { name, events, options, handle: Arc::new(handle), activity, permits }
    }

    /// Sets the options from the handler's attribute.
    #[must_use]
    pub fn with_options(mut self, options: HandlerOptions) -> Self {
        self.options = options;
        self
    }

    /// Renames the subscriber, if there is a new name.
    pub(super) fn renamed(self, name: Option<Name>) -> Self {
        Self { name: name.unwrap_or(self.name), ..self }
    }

    /// The name in logs and dead letters.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The filter for the events that it handles.
    #[must_use]
    pub const fn events(&self) -> EventFilter {
        self.events
    }

    /// The options from the handler's attribute.
    #[must_use]
    pub const fn options(&self) -> HandlerOptions {
        self.options
    }

    /// Returns `true` if it handles every event.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        matches!(self.events, EventFilter::All)
    }

    /// Returns its longest run, if that is long.
    pub(super) fn long_run(&self) -> Option<RunningHandler> {
        self.activity.long_run()
    }

    /// Returns the database fault that it waits for.
    pub(super) fn waiting(&self) -> Option<WaitingForServer> {
        self.activity.waiting(&self.name)
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Describes its oldest current run.
    pub(crate) fn handling(&self) -> Option<String> {
        self.activity.handling(&self.name)
    }

    /// Describes its last failure; `None` if it has succeeded with that event since.
    pub(crate) fn failure(&self) -> Option<String> {
        self.activity.failure(&self.name)
    }

    /// Waits for a permit, then handles the delivery in a span of its own.
    async fn run(
        &self,
        delivery: &Delivery,
        limits: &Limits,
        clock: &SharedClock,
        span: &SpanFn,
    ) -> Result<(), HandlerError> {
        let at_once = self.options.concurrency.map_or(limits.concurrency, |at_once| at_once as usize);
        let at_once = at_once.saturating_mul(limits.consumers).clamp(1, Semaphore::MAX_PERMITS);
        let permits = self.permits.get_or_init(|| Arc::new(Semaphore::new(at_once)));
        let permit = Arc::clone(permits).acquire_owned().await?;
        let handler_permit = HandlerPermit::new(permit, self.options.concurrency.is_some());
        let running = async {
            let began = clock.instant();
            let result = self.run_now(delivery, handler_permit, clock).await;
            let (took, event_id) = (clock.elapsed(began), delivery.metadata().event_id());
            if took >= limits.slow {
                tracing::warn!(%event_id, ?took, "handler is slow");
            }
            if let Err(error) = &result {
                tracing::warn!(attempt = delivery.attempt(), %error, %event_id, "handler failed");
                Span::current().record("otel.status_code", "ERROR").record("error.type", "handler_failed");
            }
            result
        };
        running.instrument(span(delivery, &self.name)).await
    }

    async fn run_now(
        &self,
        delivery: &Delivery,
        permit: HandlerPermit,
        clock: &SharedClock,
    ) -> Result<(), HandlerError> {
        let running = AssertUnwindSafe(async { (self.handle)(delivery).await }).catch_unwind();
        let timeout = Some(self.options.timeout.unwrap_or(DEFAULT_TIMEOUT));
        let result = match self.activity.watch(&self.name, delivery, timeout, Some(permit), running, clock).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(HandlerError::from_panic(&*panic)),
            Err(TookTooLong(timeout)) => Err(HandlerError::timed_out(timeout)),
        };
        self.activity.ended(&self.name, delivery.record(), &result, clock);
        result
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("name", &self.name).field("events", &self.events.event_types()).finish()
    }
}

/// The limits for concurrent deliveries, and for slow handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of deliveries that a handler without its own limit runs at once; a run that awaits for 10 s does not
    /// count any more.
    pub concurrency: usize,
    /// The number of consumers of its group that a handler serves: each may deliver as many at once.
    pub consumers: usize,
    /// The time after which a run is logged as slow.
    pub slow: Duration,
}

impl Default for Limits {
    /// One consumer, one delivery at a time; a run of a second is slow.
    fn default() -> Self {
        Self { concurrency: 1, consumers: 1, slow: Duration::from_secs(1) }
    }
}

/// The outcome of a delivery.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Every handler that wants the event and had not given up has succeeded, now or before.
    Handled {
        /// The handlers that succeeded now.
        succeeded: Vec<Name>,
    },
    /// No handler of the group wants the event.
    Skipped,
    /// The group has no handlers any more: the delivery stays pending, as it is undecided.
    Unattended,
    /// Some handlers failed.
    Failed {
        /// The handlers that failed now.
        failures: Vec<Failure>,
        /// The handlers that succeeded now.
        succeeded: Vec<Name>,
    },
}

/// A handler that failed, and its error.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The name of the handler.
    pub handler: Name,
    /// The number of its retries; the bus decides if `None`.
    pub retries: Option<u32>,
    /// Why it failed.
    pub error: HandlerError,
}

/// Runs every subscriber that wants the event and has neither succeeded nor given up before: first those of its type,
/// then those of all types, in the order they subscribed; each in a `span` of its own.
pub async fn dispatch(
    subscribers: &[Subscriber],
    delivery: &Delivery,
    attempts: &DeliveryAttempts,
    limits: &Limits,
    clock: &SharedClock,
    span: &SpanFn,
) -> Outcome {
    if subscribers.is_empty() {
        return Outcome::Unattended;
    }
    let wanted = || subscribers.iter().filter(|s| s.events.matches(delivery.record().event_type()));
    let (typed, wildcard) = (|s: &&Subscriber| !s.is_wildcard(), |s: &&Subscriber| s.is_wildcard());
    let mut is_wanted = false;
    let (mut failures, mut succeeded) = (Vec::new(), Vec::new());
    for subscriber in wanted().filter(typed).chain(wanted().filter(wildcard)) {
        is_wanted = true;
        if attempts.is_finished_for(&subscriber.name) {
            continue;
        }
        match subscriber.run(delivery, limits, clock, span).await {
            Ok(()) => succeeded.push(subscriber.name.clone()),
            Err(error) => {
                let (handler, retries) = (subscriber.name.clone(), subscriber.options.retries);
                failures.push(Failure { handler, retries, error });
            }
        }
    }
    // a failed handler that only other consumers of the group have: they retry it, unless it has given up
    match (is_wanted || attempts.has_given_up(), failures.is_empty()) {
        (false, _) => Outcome::Skipped,
        (true, true) => Outcome::Handled { succeeded },
        (true, false) => Outcome::Failed { failures, succeeded },
    }
}
