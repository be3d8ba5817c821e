//! The app: a store, a bus, and the relay, consumers and projections on them.
//!
//! Invariant: no module outside of this one names the in-memory defaults of store and bus.

mod builder;
mod error;
mod exit;
mod no_store;
mod outage_starts;
mod plan;
mod projections;
mod relay_health;
mod signal;
mod skipping;
mod stored_types;
mod tasks;
mod wait_idle;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

pub use builder::AppBuilder;
pub use error::{PublishedError, SettleError};
pub use signal::shutdown_signal;

use self::{
    exit::{ActivitySources, ExitGuard},
    outage_starts::OutageStarts,
    plan::CheckedPlan,
    tasks::AppTasks,
};
use super::{
    definition::Projection,
    follow::Follow,
    projection::{AnyProjection, ProjectionError, ProjectionGuard, ProjectionHandle},
    repository::AggregateRepository,
};
use crate::{
    domain::{aggregate::Apply, clock::SharedClock, error::Result, name::Name, stream::Position},
    port::{EventBus, EventStore, MessageId, ShutdownError},
};

/// Timeout of the store's head, for an error text. Real time: it is the reply of a server.
const HEAD_TIMEOUT: Duration = Duration::from_millis(500);

/// A running app: a store, a bus, and the handlers and projections on them. Cloning shares it.
///
/// Its tasks stop when the last clone is dropped, or by [`shutdown`](Self::shutdown), which waits for deliveries in
/// flight.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{App, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Counter)]
/// # struct Counted { by: u32 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Counted))]
/// # struct Counter { total: u32 }
/// # impl Apply for Counter {
/// #     fn apply(&mut self, event: &CounterEvent) { let CounterEvent::Counted(e) = event; self.total += e.by; }
/// # }
/// #[derive(Debug, Default)]
/// struct Sum { total: u32 }
///
/// #[projection(name = "sum")]
/// impl Sum {
///     fn counted(&mut self, event: &Counted) { self.total += event.by; }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let app = App::builder().discover().start().await?;
/// let counters = app.repository::<Counter>();
/// let mut counter = counters.create(AggregateId::new());
/// counter.record(Counted { by: 2 });
/// let saved = counters.save(&mut counter).await?;
/// assert_eq!(app.projected::<Sum>(saved.position).await?.total, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "an app stops when its last clone is dropped: keep it, and end with `run_until_signal` or `shutdown`"]
pub struct App(Arc<AppInner>);

struct AppInner {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    has_store: bool,
    groups: Vec<Name>,
    projections: Vec<AnyProjection>,
    tasks: AppTasks,
    wait_timeout: Duration,
    shutdown_timeout: Duration,
    /// Dead letters of the bus that `settled` has reported, or that the start found.
    reported_dead_letters: AtomicU64,
    /// Start times of the outages of store and bus.
    outage_starts: OutageStarts,
}

/// An event that the relay has published.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Published {
    /// The relay has published all events up to here.
    pub position: Position,
    /// The bus's id of the event at the wanted position; `None` if it was published too long ago, or by a different
    /// process.
    pub message_id: Option<MessageId>,
}

impl App {
    /// Creates a builder.
    pub fn builder() -> AppBuilder {
        AppBuilder::new()
    }

    fn new(
        store: Arc<dyn EventStore>,
        bus: Arc<dyn EventBus>,
        has_store: bool,
        plan: CheckedPlan,
        tasks: AppTasks,
        (wait_timeout, shutdown_timeout): (Duration, Duration),
        reported_dead_letters: u64,
    ) -> Self {
        let (groups, projections) = (plan.groups(), plan.projections);
        let reported_dead_letters = reported_dead_letters.into();
        Self(Arc::new(AppInner {
            store,
            bus,
            has_store,
            groups,
            projections,
            tasks,
            wait_timeout,
            shutdown_timeout,
            reported_dead_letters,
            outage_starts: OutageStarts::default(),
        }))
    }

    /// Returns a repository of aggregates of one type; the app's relay publishes the events that it saves.
    #[must_use]
    pub fn repository<A: Apply>(&self) -> AggregateRepository<A> {
        AggregateRepository::for_app(Arc::clone(&self.0.store), self.0.tasks.relay.is_some(), self.clock().clone())
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.0.store
    }

    /// Follows the store's feed: stored events, then new ones.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::{App, EventSet, Never, port::FeedFilter, prelude::*};
    /// use futures_util::TryStreamExt;
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Deposited))]
    /// # struct Account;
    /// # impl Apply for Account { fn apply(&mut self, _event: &AccountEvent) {} }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let app = App::builder().start().await?;
    /// let mut deposits = app.follow().filter(FeedFilter::from(Deposited::EVENTS)).start();
    /// let control = deposits.control(); // pauses, resumes and stops it from anywhere
    /// let ada = "ada".parse()?;
    /// app.repository::<Account>().upsert(&ada, |_| Ok::<_, Never>(Deposited { cents: 120 })).await?;
    /// while let Some(record) = deposits.try_next().await? {
    ///     assert_eq!(record.decode::<Deposited>()?.cents, 120);
    ///     control.stop();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn follow(&self) -> Follow {
        Follow::from_shared(Arc::clone(&self.0.store)).clock(self.clock().clone())
    }

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.0.bus
    }

    /// Returns a projection of the app: a cheap handle to read it by.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection.
    pub fn projection<P: Projection>(&self) -> Result<&ProjectionHandle<P>, ProjectionError> {
        self.find_projection::<P>()?.downcast().ok_or_else(|| self.not_running::<P>())
    }

    /// Waits until a projection includes all events up to `position`, then reads it: read your own writes.
    ///
    /// `None` does not wait, so that [`Saved::position`](crate::Saved) fits as it is.
    ///
    /// # Errors
    /// [`ProjectionError`] if the app has no such projection or was shut down, if it stopped at an event, or if it did
    /// not get there, or could not be read, within the builder's `wait_timeout`.
    pub async fn projected<P: Projection>(
        &self,
        position: impl Into<Option<Position>>,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        let position = position.into().unwrap_or(Position::START);
        let projection = self.find_projection::<P>()?;
        let mut read = self.projection::<P>()?.read_at(position, self.0.wait_timeout).await;
        if let Err(ProjectionError::TimedOut { wanted, problem, .. }) = &mut read
            && projection.status(Position::START).trouble.is_none()
            && let Some(end) = self.describe_missing_position(*wanted).await
        {
            *problem = end;
        }
        read
    }

    /// Describes a position that the store does not have yet.
    async fn describe_missing_position(&self, wanted: Position) -> Option<String> {
        let head = tokio::time::timeout(HEAD_TIMEOUT, self.0.store.head()).await.ok()?.ok()?;
        (head < wanted).then(|| format!("the store ends at position {head}"))
    }

    /// Runs until SIGTERM or SIGINT (Ctrl-C), then stops within the builder's `shutdown_timeout`, 30 s by default;
    /// deliveries in flight finish. A program with more to stop waits for [`shutdown_signal`](crate::shutdown_signal)
    /// itself.
    ///
    /// The app can neither end nor await a handler that blocks its thread, and the runtime could not be dropped either.
    /// If one still blocks 5 s after that time, the process exits with status 70; log and standard error name handler
    /// and event.
    ///
    /// # Errors
    /// If the process cannot listen for signals, or a task was still busy at the timeout.
    pub async fn run_until_signal(self) -> Result<()> {
        let exit = ExitGuard::new(self.0.shutdown_timeout, self.activity_sources())?;
        let stop = shutdown_signal()?;
        tracing::info!("running until a signal");
        stop.await;
        // before the shutdown removes the handlers from the bus
        let handlers = self.activity_sources().list();
        let stopped = self.shutdown(self.0.shutdown_timeout).await;
        if stopped.is_err() {
            let blocking = handlers.describe_blocking();
            if !blocking.is_empty() {
                tracing::error!(
                    "these block their threads and keep the process from ending: {}; it exits in 5 s",
                    blocking.join("; ")
                );
                exit.stay_armed();
            }
        }
        Ok(stopped?)
    }

    fn activity_sources(&self) -> ActivitySources {
        ActivitySources { bus: Arc::downgrade(&self.0.bus), projections: self.0.projections.clone() }
    }

    /// Stops all tasks of the app; deliveries in flight have until `timeout`.
    ///
    /// It cannot end a handler that blocks its thread, and a Tokio runtime waits forever for that thread when `main`
    /// returns. A program that does not use [`run_until_signal`](Self::run_until_signal), which exits then, calls
    /// [`std::process::exit`] after an error.
    ///
    /// # Errors
    /// [`ShutdownError`] if a task was still busy then; its events are redelivered after the next start.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.0.tasks.shutdown(&*self.0.bus, timeout).await
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.0.tasks.runner_context.clock
    }

    fn find_projection<P: Projection>(&self) -> Result<&AnyProjection, ProjectionError> {
        let is_it = |projection: &&AnyProjection| projection.type_id() == std::any::TypeId::of::<P>();
        self.0.projections.iter().find(is_it).ok_or_else(|| self.not_running::<P>())
    }

    fn not_running<P: Projection>(&self) -> ProjectionError {
        let known = self.0.projections.iter().map(|projection| projection.definition().name).collect();
        ProjectionError::NotRunning { name: P::definition().name, known }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("destination", self.0.bus.destination())
            .field("groups", &self.0.groups)
            .field("projections", &self.0.projections)
            .field("stopped", &self.0.tasks.is_stopped())
            .finish_non_exhaustive()
    }
}
