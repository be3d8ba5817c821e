//! Subscribers that have joined a bus: their permits, their runs, and how one run is timed and logged.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tracing::{Instrument, Span};

use super::{
    activity::{Activity, DEFAULT_TIMEOUT},
    run::{HandlerPermit, LOG_TARGET},
};
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{
        Subscriber, SubscriberStatus,
        delivery::{Delivery, HandlerError},
        health::{RunningHandler, WaitingForServer},
        run_meter::RunOutcome,
    },
    support::spans,
};

/// Makes the span in which a handler runs.
pub type SpanFn = dyn Fn(&Delivery, &Name) -> Span + Send + Sync;

/// Creates the span in which the handler with that name runs: log lines of the handler begin with it.
///
/// The span is short, for it precedes each message, and has the error level, so that no message is logged without it.
#[must_use]
pub fn handler_span(delivery: &Delivery, handler: &Name) -> Span {
    let metadata = delivery.metadata();
    // a handler is often a group of its own
    let group = Some(delivery.group()).filter(|group| *group != handler).map(tracing::field::display);
    #[cfg(not(feature = "opentelemetry"))]
    let span = tracing::error_span!(
        target: LOG_TARGET,
        "handle",
        group,
        %handler,
        event = %metadata.event_type(),
        aggregate = %metadata.stream(),
    );
    // OpenTelemetry takes the kind when the span is created, and the rest only if the span declares it
    #[cfg(feature = "opentelemetry")]
    let span = tracing::error_span!(
        target: LOG_TARGET,
        "handle",
        group,
        %handler,
        event = %metadata.event_type(),
        aggregate = %metadata.stream(),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        error.type = tracing::field::Empty,
    );
    spans::describe_handling(&span, delivery, handler);
    span
}

/// The limits for concurrent deliveries, and for slow handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The number of deliveries that a handler without its own limit runs at once; a run that awaits for 10 s does not
    /// count any more.
    pub concurrency: usize,
    /// The number of consumers of the group that share a handler: each may run as many deliveries at once.
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

/// A subscriber of a group, with its permits and its runs.
#[derive(derive_more::Debug, derive_more::Deref)]
#[debug("ActiveSubscriber {{ group: {group:?}, subscriber: {subscriber:?} }}")]
pub struct ActiveSubscriber {
    group: Name,
    #[deref]
    subscriber: Subscriber,
    activity: Arc<Activity>,
    /// One permit for each run at once; made at the first run, when the limits are known.
    permits: OnceLock<Arc<Semaphore>>,
    /// Set once its app has ended: the next subscriber of its name takes its place.
    is_leaving: AtomicBool,
}

impl ActiveSubscriber {
    /// Lets a subscriber join `group`.
    #[must_use]
    pub fn new(group: Name, subscriber: Subscriber) -> Self {
        Self {
            group,
            subscriber,
            activity: Arc::default(),
            permits: OnceLock::new(),
            is_leaving: AtomicBool::new(false),
        }
    }

    /// Lets the next subscriber of its name take its place.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    /// Returns `true` if the next subscriber of its name takes its place.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Returns its longest run, if that is long.
    pub(super) fn long_run(&self) -> Option<RunningHandler> {
        self.activity.long_run()
    }

    /// Returns the database fault that it waits for.
    pub(super) fn waiting(&self) -> Option<WaitingForServer> {
        self.activity.waiting(self.name())
    }

    /// Returns the number of its runs that hold no worker slot.
    pub(super) fn without_slot(&self) -> usize {
        self.activity.without_slot()
    }

    /// Returns the most deliveries that may run at once now: a long run of a handler without a limit of its own does not
    /// count any more.
    pub(crate) fn runs_max(&self, limits: &Limits) -> usize {
        match self.subscriber.options().concurrency {
            Some(at_once) => at_once as usize,
            None => limits.concurrency.saturating_add(self.without_slot()),
        }
    }

    /// Waits for a permit, then handles the delivery in a span of its own.
    pub(crate) async fn run(
        &self,
        delivery: &Delivery,
        limits: &Limits,
        clock: &SharedClock,
        span: &SpanFn,
    ) -> Result<(), HandlerError> {
        let at_once = self.subscriber.options().concurrency.map_or(limits.concurrency, |at_once| at_once as usize);
        let at_once = at_once.saturating_mul(limits.consumers).clamp(1, Semaphore::MAX_PERMITS);
        let permits = self.permits.get_or_init(|| Arc::new(Semaphore::new(at_once)));
        let permit = Arc::clone(permits).acquire_owned().await?;
        let handler_permit = HandlerPermit::new(permit, self.subscriber.options().concurrency.is_some());
        let running = async {
            let meter = self.subscriber.meter();
            let (began, running) = (clock.instant(), meter.begin());
            let result = self.run_now(delivery, handler_permit, clock).await;
            let (took, event_id) = (clock.elapsed(began), delivery.metadata().event_id());
            drop(running);
            let outcome = RunOutcome::of(&result);
            meter.record(took, delivery.attempt(), outcome);
            if took >= limits.slow {
                tracing::warn!(target: LOG_TARGET, %event_id, ?took, "handler is slow");
            }
            if let Err(error) = &result {
                tracing::warn!(target: LOG_TARGET, attempt = delivery.attempt(), %error, %event_id, "handler failed");
                Span::current().record("otel.status_code", "ERROR").record("error.type", outcome.label());
            }
            result
        };
        running.instrument(span(delivery, self.subscriber.name())).await
    }

    async fn run_now(
        &self,
        delivery: &Delivery,
        permit: HandlerPermit,
        clock: &SharedClock,
    ) -> Result<(), HandlerError> {
        let running = async { self.subscriber.handle(delivery).await };
        let timeout = Some(self.subscriber.options().timeout.unwrap_or(DEFAULT_TIMEOUT));
        let result = self.activity.watch(self.name(), delivery, timeout, Some(permit), running, clock).await;
        self.activity.ended(self.subscriber.name(), delivery.record(), &result, clock);
        result
    }
}

impl SubscriberStatus for ActiveSubscriber {
    fn group(&self) -> &Name {
        &self.group
    }

    fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    fn handling(&self) -> Option<String> {
        self.activity.handling()
    }

    fn last_failure(&self) -> Option<String> {
        self.activity.failure(self.name())
    }

    fn blocking(&self) -> Vec<String> {
        self.activity.blocking()
    }
}
