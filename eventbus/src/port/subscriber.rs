//! Subscribers as values: the events that a handler gets, its options, and how it is called.

use std::{sync::Arc, time::Duration};

use super::{
    BoxFuture,
    app_number::AppNumber,
    delivery::{Delivery, HandlerError},
    run_meter::RunMeter,
};
use crate::domain::{event::EventFilter, name::Name};

/// The function behind a subscriber.
pub(crate) type HandleFn = dyn for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync;

/// Options of a handler, from its attribute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct HandlerOptions {
    /// The number of retries of a failed delivery; the bus decides if `None`.
    pub retries: Option<u32>,
    /// The time limit for one attempt; 60 s if `None`. The wait for an unreachable store does not count.
    pub timeout: Option<Duration>,
    /// The number of deliveries that run at once, each of a different aggregate, however long they take. If `None`, the
    /// bus decides, and once a run has awaited for 10 s, the next one begins beside it.
    pub concurrency: Option<u32>,
    /// Where the handler begins in the store if it is new: at the oldest event if `None`.
    pub start: Option<HandlerStart>,
    /// The number of parts into which the store divides the handler's aggregates when it notes the handler; 1 if `None`.
    /// The processes of a service share the parts.
    pub shards: Option<u16>,
    /// The most events that wait behind failed ones before the handler reads no more; 100,000 if `None`.
    pub max_waiting: Option<u32>,
    /// Set if the later events of an aggregate wait for the replay or the end of its dead letter.
    pub holds_dead: bool,
    /// The foreign stream that the handler consumes; it reads its app's own store if `None`.
    pub stream: Option<&'static str>,
}

#[doc(hidden)]
impl HandlerOptions {
    pub const NONE: Self = Self {
        retries: None,
        timeout: None,
        concurrency: None,
        start: None,
        shards: None,
        max_waiting: None,
        holds_dead: false,
        stream: None,
    };

    pub const fn retries(self, retries: u32) -> Self {
        Self { retries: Some(retries), ..self }
    }

    pub const fn timeout_ms(self, millis: u64) -> Self {
        Self { timeout: Some(Duration::from_millis(millis)), ..self }
    }

    pub const fn concurrency(self, concurrency: u32) -> Self {
        Self { concurrency: Some(concurrency), ..self }
    }

    pub const fn starting(self, start: HandlerStart) -> Self {
        Self { start: Some(start), ..self }
    }

    pub const fn shards(self, shards: u16) -> Self {
        Self { shards: Some(shards), ..self }
    }

    pub const fn max_waiting(self, max_waiting: u32) -> Self {
        Self { max_waiting: Some(max_waiting), ..self }
    }

    pub const fn holding_dead(self) -> Self {
        Self { holds_dead: true, ..self }
    }

    pub const fn of_stream(self, stream: &'static str) -> Self {
        Self { stream: Some(stream), ..self }
    }
}

/// Where a handler begins: which earlier events its group gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerStart {
    /// With the oldest event of the store.
    Oldest,
    /// With the next event from now on.
    Now,
}

/// A named function that handles events: of a handler, a projection, or a closure.
#[derive(Clone, derive_more::Debug)]
#[debug("Subscriber {{ name: {name:?}, events: {:?} }}", events.event_types())]
pub struct Subscriber {
    name: Name,
    events: EventFilter,
    options: HandlerOptions,
    handle: Arc<HandleFn>,
    /// The counters of its runs since it joined its bus.
    meter: Arc<RunMeter>,
    /// The app whose handler it runs; `None` if the program subscribed it without an app.
    app: Option<AppNumber>,
    /// The crate that defines the handler; empty if it is none of a crate.
    crate_name: &'static str,
}

impl Subscriber {
    /// Creates a subscriber; logs and dead letters show `name`.
    pub fn new<F>(name: Name, events: EventFilter, handle: F) -> Self
    where
        F: for<'a> Fn(&'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> + Send + Sync + 'static,
    {
        let (options, meter, crate_name) = Default::default();
        Self { name, events, options, handle: Arc::new(handle), meter, app: None, crate_name }
    }

    /// Sets the options from the handler's attribute.
    #[must_use]
    pub fn with_options(self, options: HandlerOptions) -> Self {
        Self { options, ..self }
    }

    /// Sets the app whose handler it runs.
    pub(crate) fn of_app(self, app: Option<AppNumber>) -> Self {
        Self { app, ..self }
    }

    /// Sets the crate that defines the handler.
    pub(crate) fn of_crate(self, crate_name: &'static str) -> Self {
        Self { crate_name, ..self }
    }

    /// Returns the crate that defines the handler.
    pub(crate) const fn crate_name(&self) -> &'static str {
        self.crate_name
    }

    /// Returns the app whose handler it runs, if there is one.
    pub(crate) const fn app(&self) -> Option<AppNumber> {
        self.app
    }

    /// Returns the subscriber for a bus that it joins: with this name, if there is one, and with no run counted yet.
    pub(crate) fn joining(self, name: Option<Name>) -> Self {
        Self { name: name.unwrap_or(self.name), meter: Arc::default(), ..self }
    }

    /// The counters of its runs.
    pub(crate) fn meter(&self) -> &RunMeter {
        &self.meter
    }

    /// The name in logs and dead letters.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The filter for the events that it handles.
    pub const fn events(&self) -> EventFilter {
        self.events
    }

    /// The options from the handler's attribute.
    pub const fn options(&self) -> HandlerOptions {
        self.options
    }

    /// Returns `true` if it handles every event.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        matches!(self.events, EventFilter::All)
    }

    /// Calls the handler.
    pub(crate) fn handle<'a>(&'a self, delivery: &'a Delivery) -> BoxFuture<'a, Result<(), HandlerError>> {
        (self.handle)(delivery)
    }
}

/// A subscriber that has joined its bus, with the state of its runs.
pub trait SubscriberStatus: Send + Sync {
    /// Returns the consumer group that it belongs to.
    fn group(&self) -> &Name;

    /// Returns the subscriber.
    fn subscriber(&self) -> &Subscriber;

    /// Describes its oldest current run.
    fn handling(&self) -> Option<String>;

    /// Describes its last failure; `None` if it has succeeded with that event since.
    fn last_failure(&self) -> Option<String>;

    /// Describes its runs that have blocked their threads for a second or more.
    fn blocking(&self) -> Vec<String>;
}

/// The subscription of one subscriber. It outlives this value; only [`cancel`](Self::cancel) ends it.
#[derive(derive_more::Debug)]
#[debug("Subscription {{ group: {group:?}, .. }}")]
pub struct Subscription {
    group: Name,
    cancel: Box<dyn Fn() -> bool + Send + Sync>,
    leave: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Subscription {
    /// Creates the subscription of a subscriber of `group`. `cancel` ends it, and returns `true` if the subscriber was
    /// still there.
    pub fn new(group: Name, cancel: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { group, cancel: Box::new(cancel), leave: None }
    }

    /// Sets what [`leave`](Self::leave) does.
    pub(crate) fn on_leave(self, leave: impl Fn() + Send + Sync + 'static) -> Self {
        Self { leave: Some(Box::new(leave)), ..self }
    }

    /// Gives the name of the subscriber to the next subscriber of that name, which takes its place. Until then it gets
    /// deliveries as before.
    pub(crate) fn leave(&self) {
        if let Some(leave) = &self.leave {
            leave();
        }
    }

    /// Returns the consumer group that the subscriber belongs to.
    #[must_use]
    pub const fn group(&self) -> &Name {
        &self.group
    }

    /// Ends the subscription: no delivery begun from now on reaches the subscriber. Returns `true` if it was still
    /// there.
    pub fn cancel(&self) -> bool {
        (self.cancel)()
    }
}
