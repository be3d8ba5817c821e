//! Running the handlers of a group for one delivery; shared by all buses.
//!
//! Keep: every handler of the group runs, also after another one failed; a panic is a failure of that delivery, never
//! of the consumer.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::{BoxFuture, Delivery, HandlerError, activity::Activity};
use crate::domain::{event::EventFilter, name::Name};

/// The function behind a subscriber.
pub type HandleFn = dyn for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync;

/// Options of a handler, from its attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// How often a failed delivery is tried again; the bus decides if `None`.
    pub retries: Option<u32>,
    /// How long one try may take.
    pub timeout: Option<Duration>,
    /// How many deliveries run at once.
    pub concurrency: Option<u32>,
}

impl HandlerOptions {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(retries: Option<u32>, timeout_ms: Option<u64>, concurrency: Option<u32>) -> Self {
        let timeout = match timeout_ms {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        };
        Self { retries, timeout, concurrency }
    }
}

/// Something that handles events: a handler, a projection, a closure.
#[derive(Clone)]
pub struct Subscriber {
    name: Name,
    events: EventFilter,
    options: HandlerOptions,
    handle: Arc<HandleFn>,
    activity: Arc<Activity>,
}

impl Subscriber {
    /// Puts a subscriber together; `name` is what logs and dead letters call it.
    pub fn new<F>(name: Name, events: EventFilter, handle: F) -> Self
    where
        F: for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync + 'static,
    {
        Self { name, events, options: HandlerOptions::default(), handle: Arc::new(handle), activity: Arc::default() }
    }

    /// Sets the options from the handler's attribute.
    #[must_use]
    pub fn with_options(mut self, options: HandlerOptions) -> Self {
        self.options = options;
        self
    }

    /// What logs and dead letters call it.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Which events it handles.
    #[must_use]
    pub const fn events(&self) -> EventFilter {
        self.events
    }

    /// The options from the handler's attribute.
    #[must_use]
    pub const fn options(&self) -> HandlerOptions {
        self.options
    }

    /// Whether it wants every event.
    pub(super) const fn is_wildcard(&self) -> bool {
        matches!(self.events, EventFilter::All)
    }

    /// What it is handling, in words.
    pub(crate) fn handling(&self) -> Option<String> {
        self.activity.handling(&self.name)
    }

    /// What it failed at last, and why, in words.
    pub(crate) fn failure(&self) -> Option<String> {
        self.activity.failure(&self.name)
    }

    async fn run(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let handling = self.activity.begin(delivery.record());
        let result = AssertUnwindSafe(async { (self.handle)(delivery).await })
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic)));
        drop(handling);
        if let Err(error) = &result {
            self.activity.failed(delivery.record(), error);
        }
        result
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("name", &self.name).field("events", &self.events.event_types()).finish()
    }
}

/// What came of a delivery.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Every handler that wants the event succeeded: acknowledge it.
    Handled,
    /// No handler of the group wants the event: acknowledge it, count it as skipped.
    Skipped,
    /// The group has no handlers any more: leave it pending, for nobody has decided about it.
    Unattended,
    /// These handlers failed, the others succeeded: leave it pending.
    Failed(Vec<Failure>),
}

/// A handler that failed, and its error.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The name of the handler.
    pub handler: Name,
    /// Why it failed.
    pub error: HandlerError,
}

/// Runs every subscriber that wants the event: those of its type first, then those of all types, in the order they
/// subscribed.
pub async fn dispatch(subscribers: &[Subscriber], delivery: &Delivery) -> Outcome {
    if subscribers.is_empty() {
        return Outcome::Unattended;
    }
    let wanted = || subscribers.iter().filter(|s| s.events.matches(delivery.record().event_type()));
    let (typed, wildcard) = (|s: &&Subscriber| !s.is_wildcard(), |s: &&Subscriber| s.is_wildcard());
    let mut handled = false;
    let mut failures = Vec::new();
    for subscriber in wanted().filter(typed).chain(wanted().filter(wildcard)) {
        handled = true;
        if let Err(error) = subscriber.run(delivery).await {
            let metadata = delivery.metadata();
            tracing::warn!(
                handler = %subscriber.name, group = %delivery.group(), event_type = %metadata.event_type(),
                event_id = %metadata.event_id(), attempt = delivery.attempt(), error = %error, "handler failed"
            );
            failures.push(Failure { handler: subscriber.name.clone(), error });
        }
    }
    match (handled, failures.is_empty()) {
        (false, _) => Outcome::Skipped,
        (true, true) => Outcome::Handled,
        (true, false) => Outcome::Failed(failures),
    }
}
