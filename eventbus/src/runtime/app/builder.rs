//! The builder of an app: collects the options, checks the plan, starts the tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "opentelemetry")]
use super::metrics_export;
use super::{
    App,
    app_bus::AppBus,
    bus_share::BusShare,
    inner::AppInner,
    no_store::NoStore,
    outage_starts::OutageStarts,
    parts::Parts,
    plan::{Discovery, Plan},
    replayed::Replayed,
    set_up::set_up_tables,
    standalone::StandaloneApp,
    stored_types,
    tasks::{AppTasks, Buses},
};
use crate::{
    domain::{
        clock::SharedClock,
        error::{ErrorLine, Result},
        name::Name,
        stream::Position,
    },
    memory::InMemoryEventStore,
    port::{BoxFuture, ConnectError, EventBus, EventStore, state::StateMap},
    runtime::{
        definition::{Handler, HandlerDefinition, Projection, ProjectionKind},
        engine::StoreBus,
        held_lease::{LEASE_TTL_MIN, new_owner},
        metrics::{Exporter, Meters},
        projection::{AnyProjection, ProjectionHandle, RebuildProgress, Rebuilt, RunnerContext},
        relay::{self, RelayOptions},
        repository::{RepositorySource, SnapshotTasks},
        retention::Retention,
        start::{StartError, StartMistake},
        subscription::GroupNames,
    },
    support::relay_to,
};

/// Default timeout of an app's waiting methods.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Default timeout of [`App::run_until_signal`] for deliveries in flight.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// A relay checks the bus's groups once a second.
const RELAY_GATHER_MAX: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(10);
const HANDLER_LEASE_MIN: Duration = Duration::from_secs(1);
const DELIVERY_RETENTION: Duration = Duration::from_secs(30 * 24 * 3_600);
const COMMAND_RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Builds an app; [`start`](Self::start) checks all parts and starts them.
///
/// Without `.store(..)` and `.bus(..)` both are in memory, as in tests, and the start logs a warning. With a bus and no store,
/// the app only consumes; with a store and no handlers, it only publishes.
#[derive(derive_more::Debug)]
#[debug(
    "AppBuilder {{ state: {state:?}, discovery: {discovery:?}, handlers: {handlers:?}, projections: {projections:?}, .. }}"
)]
#[must_use = "an app does nothing before it is started"]
pub struct AppBuilder {
    store: Option<Arc<dyn EventStore>>,
    bus: Option<Arc<dyn EventBus>>,
    /// The foreign streams, by the names that handlers give them.
    consumed: BTreeMap<Name, Arc<dyn EventBus>>,
    /// The bus of the handlers on the store; a test sets it, otherwise `check` makes it.
    store_bus: Option<StoreBus>,
    /// The bus of a test, which wraps `store_bus` and records the runs of handlers.
    own_bus: Option<Arc<dyn EventBus>>,
    state: StateMap,
    discovery: Discovery,
    expected_crates: BTreeSet<String>,
    handlers: Vec<HandlerDefinition>,
    projections: Vec<AnyProjection>,
    relay: bool,
    relay_options: RelayOptions,
    wait_timeout: Duration,
    shutdown_timeout: Duration,
    lease: Duration,
    retention: Retention,
    clock: SharedClock,
    /// The clock of the repositories, if it differs from the app's.
    save_clock: Option<SharedClock>,
    exporter: Exporter,
}

impl AppBuilder {
    pub(super) fn new() -> Self {
        Self {
            store: None,
            bus: None,
            consumed: BTreeMap::new(),
            store_bus: None,
            own_bus: None,
            state: StateMap::new(),
            discovery: Discovery::Off,
            expected_crates: BTreeSet::new(),
            handlers: Vec::new(),
            projections: Vec::new(),
            relay: true,
            relay_options: RelayOptions::default(),
            wait_timeout: WAIT_TIMEOUT,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            lease: LEASE,
            retention: Retention { deliveries: DELIVERY_RETENTION, commands: COMMAND_RETENTION },
            clock: SharedClock::SYSTEM,
            save_clock: None,
            exporter: Exporter::default(),
        }
    }

    /// Keeps events in this store.
    pub fn store(self, store: impl EventStore) -> Self {
        Self { store: Some(Arc::new(store)), ..self }
    }

    /// Publishes the events of the store on this bus; an app without a store consumes it.
    pub fn bus(self, bus: impl EventBus) -> Self {
        Self { bus: Some(Arc::new(bus)), ..self }
    }

    /// Shares a value with handlers and projections, which take it as `State<T>`; one per type. Put a value without
    /// `Clone` in an `Arc`, and take it as `State<Arc<T>>`.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.state = self.state.with(value);
        self
    }

    /// Runs every `#[handler]` and `#[projection]` that is linked into the program.
    ///
    /// A crate that the binary never names is not linked: add `use my_crate as _;`, and let
    /// [`expect_crates`](Self::expect_crates) find a forgotten one.
    pub fn discover(self) -> Self {
        Self { discovery: Discovery::All, ..self }
    }

    /// Refuses to start unless each of these crates is linked, that is, has an event, an aggregate, a handler or a
    /// projection in this program. Without this check, an app that lacks a crate starts without the crate's handlers.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use eventbus::App;
    ///
    /// let error = App::builder().expect_crates(["my-orders"]).start().await.unwrap_err().to_string();
    /// assert!(error.contains("add `use my_orders as _;` to main.rs"));
    /// # }
    /// ```
    pub fn expect_crates(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let expected_crates = names.into_iter().map(|name| name.into().replace('-', "_")).collect();
        Self { expected_crates, ..self }
    }

    /// Runs the linked handlers of these groups only; projections are the group `projections`.
    pub fn discover_groups(self, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { discovery: Discovery::Groups(groups.into_iter().map(Into::into).collect::<BTreeSet<_>>()), ..self }
    }

    /// Runs this handler, discovered or not. `#[handler]` makes the name of the function a type: for the function
    /// `send_receipt`, call `.handler::<send_receipt>()`, without a value.
    pub fn handler<H: Handler>(mut self) -> Self {
        self.handlers.push(H::definition());
        self
    }

    /// Feeds this projection. To rebuild state in memory, the app must make a new instance: use
    /// [`projection_with`](Self::projection_with) for that.
    pub fn projection<P: Projection>(mut self, projection: P) -> Self {
        self.projections.push(AnyProjection::new(ProjectionHandle::new(projection)));
        self
    }

    /// Feeds a projection that `make` makes. A rebuild of state in memory calls `make` again.
    pub fn projection_with<P: Projection>(mut self, make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        self.projections.push(AnyProjection::new(ProjectionHandle::with_factory(make)));
        self
    }

    /// Consumes a foreign stream for the handlers that name it: `#[handler(stream = "orders")]`. They run in a consumer
    /// group of that bus, named by `group` or else by the bus, and their effects go through the app's own store.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{App, InMemoryEventBus};
    /// let orders = InMemoryEventBus::new();
    /// let builder = App::builder().consume("orders", orders.clone());
    /// ```
    ///
    /// # Panics
    /// If `stream` is no [`Name`]: it is empty, too long, or has control characters.
    pub fn consume(mut self, stream: &'static str, bus: impl EventBus) -> Self {
        self.consumed.insert(Name::from_static(stream), Arc::new(bus));
        self
    }

    /// Leaves publishing to other processes: this one only saves, consumes and projects.
    ///
    /// No app needs it: of all processes on a store, one relays to a stream, and a standby takes over if that one dies.
    pub fn without_relay(self) -> Self {
        Self { relay: false, ..self }
    }

    /// Sets the shortest time between two publications of the relay: 0 by default, at most 1 s. The relay publishes
    /// together all events that are saved within `gather` after a publication.
    ///
    /// Consumers of the stream get an event later by `gather` at most; the first event after a pause reaches them at once.
    /// Relay, bus and consumer have less work, since a few events take each of them no longer than one. A relay that has
    /// fallen behind does not wait. Handlers of the store do not wait for the relay.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use eventbus::App;
    /// let builder = App::builder().relay_gather(Duration::from_millis(10));
    /// ```
    pub fn relay_gather(mut self, gather: Duration) -> Self {
        self.relay_options.gather = gather.min(RELAY_GATHER_MAX);
        self
    }

    /// Lets the relay publish to a stream that carries the events of other stores too. By default it refuses such a
    /// stream, since a wrong database, or a new one with the stream of a former one, is usually a mistake. On Redis the
    /// app does not start if the stream carries the events of a different store only.
    pub fn share_stream(mut self) -> Self {
        self.relay_options.is_stream_shared = true;
        self
    }

    /// Sets the timeout of `projected`, `published` and `settled`, and how long `rebuild` waits for guards; 30 s by
    /// default.
    pub fn wait_timeout(self, timeout: Duration) -> Self {
        Self { wait_timeout: timeout, ..self }
    }

    /// Sets the time that [`App::run_until_signal`] gives deliveries in flight after a signal; 30 s by default.
    pub fn shutdown_timeout(self, timeout: Duration) -> Self {
        Self { shutdown_timeout: timeout, ..self }
    }

    /// Sets the duration of the leases by which one process runs handlers, feeds a projection and relays: if it dies,
    /// another one takes over that long after the last renewal; after a shutdown, at once. 10 s by default, at least
    /// 100 ms, and at least 1 s for handlers, whose leases are renewed each second.
    ///
    /// State in memory needs no lease, as every process feeds its own; nor do handlers on a store that sees the end of a
    /// process, as SQLite does.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease: lease.max(LEASE_TTL_MIN), ..self }
    }

    /// Sets how long the store remembers which events took effect in handlers that use its transaction or save by a
    /// [`Repository`](crate::Repository); 30 days by default.
    ///
    /// An event that is redelivered later than that takes effect again. So set more than the longest time that an event
    /// can wait: for a group that does not consume, for a retry, or as a dead letter that an operator replays.
    pub fn inbox_retention(self, retention: Duration) -> Self {
        Self { retention: Retention { deliveries: retention, ..self.retention }, ..self }
    }

    /// Sets how long the store remembers commands that took effect [once](crate::AggregateRepository::once), and their
    /// answers; 7 days by default.
    ///
    /// If a client sends a command again later than that, it takes effect again.
    pub fn command_retention(self, retention: Duration) -> Self {
        Self { retention: Retention { commands: retention, ..self.retention }, ..self }
    }

    /// Sets the clock of the app, for ids and times of events, retries, leases and timeouts; the machine's by default.
    /// The store and the bus in memory use it too; other stores and buses get a clock from their own builders.
    ///
    /// With a manual clock (`testkit::ManualClock`) a test lets hours pass in an instant.
    pub fn clock(self, clock: impl Into<SharedClock>) -> Self {
        Self { clock: clock.into(), ..self }
    }

    /// Exports the [metrics](crate::metrics) of the app to this meter of OpenTelemetry, until the app is dropped or
    /// shut down. The meter's provider reads the numbers from the app whenever it collects, once the app has polled
    /// store and bus. Numbers from store and bus are at most 7 seconds old; the ages of events are always exact.
    ///
    /// Counters and histograms of the meter go on when a later app of the process exports to it. An app that is shut down
    /// has added all that it counted; one that is only dropped loses what it counted since the last collection.
    ///
    /// If several apps of a process share a store, one app at a time exports the histogram of its commits: the one that
    /// started first, and after its end the next one. Give each app of a process a meter with a different name: their
    /// series have the same names and labels, and a provider would merge them.
    ///
    /// # Examples
    /// ```standalone_crate
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::App;
    /// use opentelemetry::global; // its provider has the exporter of the program's choice
    ///
    /// let app = App::builder().export_metrics(global::meter("eventbus")).start().await?;
    /// # drop(app);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "opentelemetry")]
    #[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry")))]
    pub fn export_metrics(self, meter: opentelemetry::metrics::Meter) -> Self {
        Self { exporter: Exporter::new(meter), ..self }
    }

    /// Returns `true` if the builder has a store.
    #[cfg(feature = "testkit")]
    pub(crate) const fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Runs on this bus and these clocks, and on `store` if the builder has none: for tests.
    #[cfg(feature = "testkit")]
    pub(crate) fn in_test(
        self,
        store: &InMemoryEventStore,
        (store_bus, bus): (StoreBus, impl EventBus),
        clock: SharedClock,
        save_clock: SharedClock,
    ) -> Self {
        let store = self.store.unwrap_or_else(|| Arc::new(store.clone()));
        let (own_bus, store_bus) = (Some(Arc::new(bus) as Arc<dyn EventBus>), Some(store_bus));
        Self { store: Some(store), own_bus, store_bus, clock, save_clock: Some(save_clock), ..self }
    }

    /// Returns the store that the builder was given.
    #[must_use]
    pub fn given_store(&self) -> Option<&Arc<dyn EventStore>> {
        self.store.as_ref()
    }

    /// Returns the bus that the builder was given.
    #[must_use]
    pub fn given_bus(&self) -> Option<&Arc<dyn EventBus>> {
        self.bus.as_ref()
    }

    /// Rebuilds one projection from zero, without starting the app: for commands of operators.
    ///
    /// Unlike with [`App::rebuild`], this process runs no handler and publishes no event. The app may run in other
    /// processes. Rows outside of the store's transaction can be rebuilt only while no process feeds the projection.
    /// New state in memory is dropped at the end: such a rebuild only shows that the methods handle all events.
    ///
    /// If the future is dropped, or the process ends, the next rebuild of rows with `tables(..)` continues where this
    /// one stopped. It can begin a [`lease`](Self::lease) later at the latest.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::prelude::*;
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Account")]
    /// struct Opened {}
    ///
    /// #[derive(Default)]
    /// struct Accounts;
    ///
    /// #[projection(name = "accounts")]
    /// impl Accounts { fn opened(&mut self, _event: &Opened) {} }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let rebuilt = App::builder().discover().rebuild("accounts", |now| println!("{now}")).await?;
    /// assert_eq!(rebuilt.events, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StartError`] if the app could not start or has no such projection, otherwise the errors of [`App::rebuild`].
    pub async fn rebuild(self, projection: &str, report: impl FnMut(RebuildProgress) + Send) -> Result<Rebuilt> {
        self.standalone()?.rebuild(projection, report).await
    }

    /// Runs one handler on the stored events of its types, after position `after` and up to `through` or the end of the
    /// store, without starting the app: for commands of operators.
    ///
    /// The handler gets each event once, in the order of the store, and the replay ends at the first event that fails.
    /// If the handler takes the store's connection, or a repository, the replay leaves out events that the store notes
    /// as handled by it. No other handler runs, and no consumer group moves.
    ///
    /// # Errors
    /// [`StartError`] if the app could not start or has no such handler; [`ReplayError`](super::ReplayError) with the position of the event
    /// that failed, or if the store could not be read.
    pub async fn replay(
        self,
        handler: &str,
        after: Position,
        through: Option<Position>,
        report: impl FnMut(Replayed) + Send,
    ) -> Result<Replayed> {
        self.standalone()?.replay(handler, after, through, report).await
    }

    /// Checks the parts of the app without starting it. The [`StandaloneApp`] rebuilds and replays as this builder does, and
    /// also checks the name of a projection or handler, so that a command can do this before it asks for confirmation.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::App;
    /// let app = App::builder().standalone()?;
    /// let unknown = app.check_projection("balances").unwrap_err();
    /// assert_eq!(unknown.mistakes()[0].to_string(), "the app has no projection `balances` (it has: none)");
    /// # Ok::<(), eventbus::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`StartError`] with every mistake that [`start`](Self::start) finds before it connects.
    pub fn standalone(mut self) -> Result<StandaloneApp, StartError> {
        let Self { lease, wait_timeout: guard_timeout, .. } = self;
        Ok(StandaloneApp { parts: self.check()?, lease, guard_timeout })
    }

    /// Takes the parts out of the builder, and checks them.
    fn check(&mut self) -> Result<Parts, StartError> {
        let consumes_only = self.store.is_none() && (self.bus.is_some() || !self.consumed.is_empty());
        let clock = self.clock.clone();
        let store: Arc<dyn EventStore> = match self.store.take() {
            Some(store) => store,
            None if consumes_only => Arc::new(NoStore::default()),
            None => Arc::new(InMemoryEventStore::with_clock(clock.clone())),
        };
        let given = self.bus.take();
        let has_own_events = !consumes_only || given.is_some();
        let store_bus = (!consumes_only).then(|| self.store_bus.take().unwrap_or_else(StoreBus::new));
        let own: Arc<dyn EventBus> = match (&store_bus, &given) {
            (None, Some(given)) => Arc::clone(given),
            (_, _) => self.own_bus.take().unwrap_or_else(|| Arc::new(store_bus.clone().unwrap_or_else(StoreBus::new))),
        };
        let consumed = std::mem::take(&mut self.consumed);
        let relayed = given.filter(|_| store_bus.is_some());
        let mut mistakes = Vec::new();
        if let Some(bus) = relayed.as_ref().filter(|bus| self.relay && bus.relay_target().is_none()) {
            mistakes.push(StartMistake::BusWithoutPosition { destination: bus.destination().clone() });
        }
        let groups = GroupNames {
            own: store_bus.is_none().then(|| own.default_group().clone()),
            consumed: consumed.iter().map(|(stream, bus)| (stream.clone(), bus.default_group().clone())).collect(),
        };
        let bus = match relayed.is_none() && consumed.is_empty() {
            true => own,
            false => Arc::new(AppBus::new(own, relayed.clone(), consumed, clock.clone())),
        };
        let repositories = RepositorySource {
            store: Arc::clone(&store),
            has_relay: self.relay && relayed.is_some(),
            clock: self.save_clock.take().unwrap_or_else(|| clock.clone()),
            snapshot_tasks: SnapshotTasks::default(),
            first_command: Arc::default(),
            tag_queues: Arc::default(),
            meters: Meters::new(self.exporter.clone()),
        };
        let state = std::mem::take(&mut self.state);
        let state = if consumes_only { state } else { state.with(repositories.clone()) };
        let plan = Plan {
            discovery: std::mem::replace(&mut self.discovery, Discovery::Off),
            expected_crates: std::mem::take(&mut self.expected_crates),
            handlers: std::mem::take(&mut self.handlers),
            projections: std::mem::take(&mut self.projections),
            state: &state,
            transaction: store.transactions().map(|transactions| transactions.transaction_type()),
            has_store: !consumes_only,
            has_own_events,
            has_progress: store.handler_progress().is_some(),
            has_idle_bus: relayed.is_some() && !self.relay,
            groups: &groups,
        }
        .check(mistakes)?;
        Ok(Parts { store, bus, store_bus, relayed, clock, repositories, state, plan })
    }

    /// Checks all parts, connects the bus, runs the `set_up` of each projection, and then starts relay, consumers and
    /// projections.
    ///
    /// The log gets up to three warnings about stored events:
    /// - Types that no code here knows: they are neither linked into the program nor taken by a handler or projection
    ///   of the app. It leaves out types that were stored before the store kept a list of types.
    /// - Linked types with events that were stored before the type declared its `unique` values or a `normalize`, or by
    ///   a release that declared them differently: until
    ///   [`take_unique_values`](crate::AggregateRepository::take_unique_values) has run.
    /// - The same for `tags`, until [`tag_stored_events`](crate::App::tag_stored_events) has run.
    ///
    /// The app notes in the store which fields linked events declare as `personal`, so that the command
    /// `eventbus dashboard` hides their values.
    ///
    /// # Errors
    /// [`StartError`] with all mistakes, each with its place in the source.
    pub async fn start(self) -> Result<App, StartError> {
        self.start_boxed().await
    }

    /// Returns a box, so that the code of the app is compiled once, with this crate. The code of an `async fn` is
    /// otherwise compiled again with each program that awaits it.
    fn start_boxed(self) -> BoxFuture<'static, Result<App, StartError>> {
        Box::pin(self.start_parts())
    }

    async fn start_parts(mut self) -> Result<App, StartError> {
        let has_no_backend = self.store.is_none() && self.bus.is_none() && self.consumed.is_empty();
        #[cfg(feature = "opentelemetry")]
        let exporter = self.exporter.clone();
        let Parts { store, bus, store_bus, relayed, clock, repositories, state, plan } = self.check()?;
        let has_store = store_bus.is_some();
        #[cfg(feature = "opentelemetry")]
        let exported_batches = exporter.export_batches(&*store);
        plan.log_routes();
        if has_no_backend {
            tracing::warn!("no store was given: events are lost when the process ends; give one by `.store(..)`");
        }
        if plan.handlers.is_empty() && plan.projections.is_empty() {
            tracing::info!("the app has no handlers and no projections; `.discover()` adds those that are linked");
        }
        stored_types::warn_of_differences(&*store, &plan).await;
        stored_types::note_personal_fields(&*store).await;
        let relay_options = self.relay.then_some(self.relay_options).filter(|_| relayed.is_some());
        // handlers on the store wait for no bus, and foreign streams connect when they are consumed
        let connected_first = relayed.as_ref().or((!has_store).then_some(&bus));
        let is_connected = match connected_first {
            Some(bus) => try_connect(&**bus).await?,
            None => true,
        };
        let transport = relayed.as_ref().unwrap_or(&bus);
        if is_connected && relay_options.is_some_and(|options| !options.is_stream_shared) {
            relay::refuse_other_store(&*store, &**transport).await.map_err(StartMistake::OtherStore)?;
        }
        // before the app has subscribers on it
        let stats_at_start = bus.stats();
        // before other processes learn of the groups and types of an app that may not start
        set_up_tables(&*store, &plan.projections).await?;
        let unavailable =
            |source| StartMistake::Unavailable { what: format!("the relay to `{}`", transport.destination()), source };
        note_first_head(&*store, &plan.projections).await;
        let context = RunnerContext::new(Arc::clone(&store), clock, state, new_owner(), self.lease);
        let tables = plan.projections.iter().flat_map(|projection| projection.definition().tables.iter().copied());
        let context = context.with_tables(tables);
        if let Some(store_bus) = &store_bus {
            store_bus.bind(context.feed_head.clone(), self.lease.max(HANDLER_LEASE_MIN), relay_to(bus.destination()));
        }
        let buses = Buses { bus: Arc::clone(&bus), relayed: relayed.clone(), has_store, is_connected };
        let tasks = AppTasks::spawn(context, buses, &plan, relay_options, self.retention, &repositories);
        let tasks = tasks.await.map_err(unavailable)?;
        plan.log_start(has_store.then_some(&*store), &*bus, relay_options.is_some());
        let app = Arc::new(AppInner {
            store,
            bus,
            bus_share: BusShare::new(tasks.number(), stats_at_start),
            has_store,
            relayed,
            groups: plan.groups(),
            projections: plan.projections,
            tasks,
            repositories,
            wait_timeout: self.wait_timeout,
            shutdown_timeout: self.shutdown_timeout,
            reported_dead_letters: stats_at_start.messages_sent_to_dlq.into(),
            outage_starts: OutageStarts::default(),
            #[cfg(feature = "opentelemetry")]
            exported_counters: exporter.export_counters(),
        });
        #[cfg(feature = "opentelemetry")]
        metrics_export::export(&app, &exporter, exported_batches);
        Ok(App(app))
    }
}

/// Notes how far state in memory has to read the feed before the app is ready. If the store does not answer, the feeders
/// note it with their first head.
async fn note_first_head(store: &dyn EventStore, projections: &[AnyProjection]) {
    let is_in_memory = |projection: &&AnyProjection| projection.definition().kind == ProjectionKind::InMemory;
    if projections.iter().any(|projection| is_in_memory(&projection))
        && let Ok(head) = store.head().await
    {
        projections.iter().filter(is_in_memory).for_each(|projection| projection.fed().progress().note_head(head));
    }
}

/// Connects the bus, unless it is connected already. Returns `false` if it is away: a task connects it later.
async fn try_connect(bus: &dyn EventBus) -> Result<bool, StartMistake> {
    match bus.ensure_connected().await {
        Ok(()) => Ok(true),
        Err(error @ ConnectError::Unavailable { .. }) => {
            let (destination, error) = (bus.destination(), ErrorLine(&error));
            tracing::warn!(%destination, %error, "bus is away, the app starts without it and connects when it is back");
            Ok(false)
        }
        Err(refused) => Err(StartMistake::BusRefused(refused)),
    }
}
