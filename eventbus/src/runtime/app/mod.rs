//! The app: a store, a bus, and everything that runs on them.
//!
//! Keep: this is the only place that names the defaults in memory.

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

/// How long the store may take to say where it ends, for an error that is due. Real time: it is the reply of a server.
const HEAD_TIMEOUT: Duration = Duration::from_millis(500);

/// A running app: a store, a bus, and the handlers and projections on them. Cloning shares it.
///
/// Everything stops when the last clone is dropped, or by [`shutdown`](Self::shutdown), which waits for what is in
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
    /// How many deliveries the bus had given up when that was last said.
    reported_dead_letters: AtomicU64,
    /// Since when store and bus are.
    outage_starts: OutageStarts,
}

/// An event that the relay has published.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Published {
    /// Everything up to here is published.
    pub position: Position,
    /// What the bus called the event at the position asked for; `None` if it was published too long ago, or by another
    /// process.
    pub message_id: Option<MessageId>,
}

impl App {
    /// Begins to put an app together.
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

    /// A repository of aggregates of one type; the app's relay publishes what it saves.
    #[must_use]
    pub fn repository<A: Apply>(&self) -> AggregateRepository<A> {
        AggregateRepository::for_app(Arc::clone(&self.0.store), self.0.tasks.relay.is_some(), self.clock().clone())
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.0.store
    }

    /// Follows the store's feed: what is there, then what comes.
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

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.0.bus
    }

    /// A projection of the app: a cheap handle to read it by.
    ///
    /// # Errors
    /// [`ProjectionError::NotRunning`] if the app has no such projection.
    pub fn projection<P: Projection>(&self) -> Result<&ProjectionHandle<P>, ProjectionError> {
        self.find_projection::<P>()?.downcast().ok_or_else(|| self.not_running::<P>())
    }

    /// Waits until a projection includes everything up to `position`, then reads it: read your own writes.
    ///
    /// `None` waits for nothing, so that [`Saved::position`](crate::Saved) fits as it is.
    ///
    /// # Errors
    /// [`ProjectionError`] if the app has no such projection or was shut down, if it stopped at an event, or if it did not
    /// get there, or could not be read, within the builder's `wait_timeout`.
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

    /// What to say of a position that the store does not have.
    async fn describe_missing_position(&self, wanted: Position) -> Option<String> {
        let head = tokio::time::timeout(HEAD_TIMEOUT, self.0.store.head()).await.ok()?.ok()?;
        (head < wanted).then(|| format!("the store ends at position {head}"))
    }

    /// Runs until SIGTERM or SIGINT (Ctrl-C), then stops within the builder's `shutdown_timeout`, 30 s by default; what is
    /// in flight is finished. A program with more to stop waits for [`shutdown_signal`](crate::shutdown_signal) itself.
    ///
    /// A handler that blocks its thread can be neither ended nor waited for, and the runtime could not be dropped either.
    /// If one still does so 5 s after that time, the process exits with status 70; log and standard error name handler and
    /// event.
    ///
    /// # Errors
    /// If signals cannot be listened for, or something was still busy when the time was up.
    pub async fn run_until_signal(self) -> Result<()> {
        let exit = ExitGuard::new(self.0.shutdown_timeout, self.activity_sources())?;
        let stop = shutdown_signal()?;
        tracing::info!("running until a signal");
        stop.await;
        // before the handlers leave the bus
        let activities = self.activity_sources().activities();
        let stopped = self.shutdown(self.0.shutdown_timeout).await;
        if stopped.is_err() {
            let blocking = exit::describe_blocking(&activities);
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
        ActivitySources { subscribers: self.0.bus.subscribers().clone(), projections: self.0.projections.clone() }
    }

    /// Stops everything; what is in flight gets until `timeout`.
    ///
    /// It ends no handler that blocks its thread, and a Tokio runtime waits forever for that thread when `main` returns. A
    /// program that does not use [`run_until_signal`](Self::run_until_signal), which exits then, calls
    /// [`std::process::exit`] after an error.
    ///
    /// # Errors
    /// [`ShutdownError`] if something was still busy then; its events are delivered again by the next start.
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
