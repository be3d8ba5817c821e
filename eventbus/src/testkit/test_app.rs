//! An app in memory on a clock that the test moves.
//!
//! Invariant: time on the clock of the test passes only by `advance`. Real time passes in three waits only: for a store
//! of the builder that works in other threads, before a retry of a save, and until a limit fails a test that would
//! never end.

use std::{
    collections::HashSet,
    ops::Deref,
    panic::Location,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    clock::ManualClock,
    new_events::{IntoNewEvents, NewEvents},
    recording_bus::{RecordedRun, RecordedRuns, RecordingBus},
    save_clock::SaveClock,
    schedule::Schedule,
};
use crate::{
    delivery::{ActiveSubscriber, DeliveryAttempts, Limits, Outcome, dispatch, handler_span},
    domain::{clock::SharedClock, record::RecordedEvent, stream::Position},
    memory::InMemoryEventStore,
    port::{DeadLetter, DeadLetterFilter, stats::BusStats},
    runtime::{
        app::{App, AppBuilder},
        definition::Handler,
        engine::StoreBus,
    },
};

/// Default real time that a test waits for a handler, or for a shutdown, before it fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Real time without a change after which the threads of a store count as idle.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// Turns of the runtime in which every task that can run does so, several times over.
const QUIET_TURNS: usize = 32;
/// Most dead letters in a page; large ones fill a page sooner.
const DEAD_LETTERS_PER_PAGE: usize = 100;

/// An app in memory on a [`ManualClock`]: days of retries and leases pass in an instant.
///
/// It takes the function that returns the builder of the application, so that the application and its tests share one
/// builder. It replaces the builder's bus and clock, and adds a store in memory unless the builder has a store. It
/// derefs to the [`App`], for its repositories and projections.
///
/// With a store in the builder, such as `SqliteEventStore::in_memory()`, handlers and projections can take its
/// connection. Its work in other threads takes real time, and its leases may expire by the clock of the machine.
///
/// Time stands still until [`advance`](Self::advance); only the short delay before a retry of a save, after a conflict
/// or a lost reply, is real. A test app needs a runtime with one thread, as `#[tokio::test]` makes it: only there a
/// test can see that no task has work left.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{app::AppBuilder, prelude::*, testkit::TestApp};
/// use std::{collections::BTreeSet, sync::{Arc, Mutex}, time::Duration};
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Order")]
/// struct OrderCreated { customer: String }
///
/// #[derive(Clone, Default)]
/// struct Outbox(Arc<Mutex<BTreeSet<String>>>); // a set: the second mail to a customer changes nothing
///
/// #[handler]
/// async fn remind(event: &OrderCreated, State(outbox): State<Outbox>, attempt: Attempt) -> Result<(), HandlerError> {
///     if attempt.0 == 1 {
///         return Err(HandlerError::retry_after(Duration::from_hours(3), "the mail server is away"));
///     }
///     outbox.0.lock().unwrap().insert(event.customer.clone());
///     Ok(())
/// }
///
/// fn app() -> AppBuilder { // `main` calls it too, and adds `.store(..)` and `.bus(..)`
///     App::builder().discover().state(Outbox::default())
/// }
///
/// # #[tokio::main(flavor = "current_thread")] // #[tokio::test]
/// async fn main() {
///     let app = TestApp::start(app).await;
///     app.save("o-1", OrderCreated { customer: "ada".into() }).await;
///     app.advance(Duration::from_hours(2)).await;
///     assert_eq!(app.failures::<remind>(), ["the mail server is away"]);
///     app.advance(Duration::from_hours(1)).await; // the retry is due
///     assert_eq!(app.handled::<remind>(), 1);
///     app.deliver_again().await; // each event once more, as after a crash
///     assert_eq!(app.state::<Outbox>().0.lock().unwrap().len(), 1);
/// }
/// ```
#[derive(derive_more::Debug)]
#[debug("TestApp {{ app: {app:?}, clock: {clock:?} }}")]
pub struct TestApp {
    app: App,
    /// Set between a crash and the next start.
    is_crashed: bool,
    build: Box<dyn Fn() -> AppBuilder + Send + Sync>,
    clock: ManualClock,
    store: InMemoryEventStore,
    bus: StoreBus,
    /// Set if the builder has a store, whose work other threads may do.
    has_own_store: bool,
    /// The effects when the last wait ended with a projection or the relay behind.
    behind: Mutex<Option<Effects>>,
    runs: RecordedRuns,
    /// The number of ended runs of which the test's output has the failures.
    shown_runs: AtomicUsize,
    schedule: Mutex<Schedule<Effects>>,
    /// Real time that a test waits for a handler, or for a shutdown, before it fails.
    timeout: Duration,
}

/// The changes that events make in an app, as far as a test sees them.
#[derive(Debug, Clone, PartialEq)]
struct Effects {
    head: Position,
    bus: BusStats,
    /// Position of each projection, and `true` if it has stopped.
    projections: Vec<(Position, bool)>,
    runs_begun: usize,
    running: usize,
}

impl TestApp {
    /// Starts the app from the builder that `build` returns, on a new clock. Each [restart](Self::restart) calls
    /// `build` again.
    ///
    /// # Panics
    /// If the app does not start: the message lists every mistake. Also in a runtime with several threads.
    #[track_caller]
    pub fn start(build: impl Fn() -> AppBuilder + Send + Sync + 'static) -> impl Future<Output = Self> {
        Self::start_on(ManualClock::new(), build)
    }

    /// Starts the app as [`start`](Self::start) does, but on this clock, which the test can give to the app's handlers
    /// too.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn start_on(
        clock: ManualClock,
        build: impl Fn() -> AppBuilder + Send + Sync + 'static,
    ) -> impl Future<Output = Self> {
        let caller = Location::caller();
        async move {
            assert!(
                Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread,
                "{caller}: a `TestApp` needs a runtime with one thread, as `#[tokio::test]` makes it without `flavor`"
            );
            let (runs, store) = (RecordedRuns::default(), InMemoryEventStore::with_clock(clock.clone()));
            let (builder, bus) = (build(), StoreBus::new());
            let has_own_store = builder.has_store();
            let app =
                start_app(builder, &store, &clock, (bus.clone(), RecordingBus::new(bus.clone(), runs.clone())), caller)
                    .await;
            Self {
                app,
                is_crashed: false,
                build: Box::new(build),
                clock,
                store,
                bus,
                has_own_store,
                behind: Mutex::default(),
                runs,
                shown_runs: AtomicUsize::default(),
                schedule: Mutex::default(),
                timeout: TEST_TIMEOUT,
            }
        }
    }

    /// The clock of the app, its bus and its store in memory. [`advance`](Self::advance) moves it and settles.
    #[must_use]
    pub const fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Stores events of the aggregate with this id, after those that it has. The app handles them when the test awaits
    /// [`settle`](Self::settle) or [`advance`](Self::advance).
    ///
    /// The events are one event, or a tuple, array or `Vec` of them; each belongs to an aggregate of the type that its
    /// `#[event(..)]` names.
    ///
    /// # Panics
    /// If the id is no valid [`AggregateId`](crate::AggregateId), or an event cannot be saved.
    #[track_caller]
    pub fn save(&self, id: impl AsRef<str>, events: impl IntoNewEvents) -> impl Future<Output = Vec<RecordedEvent>> {
        let (caller, events) = (Location::caller(), NewEvents::new(id.as_ref(), events));
        async move {
            match events.append_to(&**self.app.store(), &SharedClock::new(self.clock.clone())).await {
                Ok(recorded) => recorded,
                Err(error) => panic!("{caller}: {error}"),
            }
        }
    }

    /// Waits until the app has done all work that needs no move of the clock: each event is published, handled and
    /// projected, or waits for a retry, or is a dead letter.
    ///
    /// A handler may sleep on this clock: it then waits for [`advance`](Self::advance). A projection may not. The output of
    /// the test names each failed run of a handler.
    ///
    /// # Panics
    /// If a handler or projection still runs after a minute of real time, such as a handler that awaits a task which
    /// sleeps on this clock, instead of sleeping itself.
    #[track_caller]
    pub fn settle(&self) -> impl Future<Output = ()> {
        self.settle_for(Location::caller())
    }

    /// Settles, then moves the clock by `by`, in steps that stop wherever work is due, and settles after each step.
    ///
    /// So each retry, timeout and lease takes effect at its own time, also if it follows from an earlier one. Polls
    /// that find no work run at most about 200 times in a call, however far it moves the clock.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    #[track_caller]
    pub fn advance(&self, by: Duration) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            self.settle_for(caller).await;
            let mut left = by;
            while !left.is_zero() {
                let step = self.schedule.lock().next_step(&self.clock, by).min(left);
                self.clock.advance(step);
                left -= step;
                self.settle_for(caller).await;
            }
        }
    }

    /// Returns how many deliveries a handler has handled without error since the first start. Repeated deliveries
    /// count, also those at which the handler did not run because the store had noted an earlier one.
    #[must_use]
    pub fn handled<H: Handler>(&self) -> usize {
        self.runs_of::<H>().filter(|run| run.error.is_none()).count()
    }

    /// Returns the errors of a handler's runs since the first start, in order, also those before a successful retry.
    #[must_use]
    pub fn failures<H: Handler>(&self) -> Vec<String> {
        self.runs_of::<H>().filter_map(|run| run.error).collect()
    }

    /// Returns the value of this type that the builder got by `.state(value)`.
    ///
    /// # Panics
    /// If the builder got none of this type.
    #[must_use]
    #[track_caller]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> T {
        match self.app.shared_state() {
            Some(value) => value,
            None => {
                panic!("the app has no state `{}`: give it to the builder by `.state(..)`", std::any::type_name::<T>())
            }
        }
    }

    /// Returns the dead letters, oldest first.
    ///
    /// # Panics
    /// If they cannot be listed.
    #[track_caller]
    pub fn dead_letters(&self) -> impl Future<Output = Vec<DeadLetter>> {
        let caller = Location::caller();
        async move {
            let Some(dead_letters) = self.app.bus().dead_letters() else {
                return Vec::new();
            };
            let (filter, mut found, mut after) = (DeadLetterFilter::default(), Vec::new(), None);
            loop {
                let page = match dead_letters.list_dead_letters(&filter, after.as_ref(), DEAD_LETTERS_PER_PAGE).await {
                    Ok(page) => page,
                    Err(error) => panic!("{caller}: {error}"),
                };
                found.extend(page.letters);
                after = page.next;
                if after.is_none() {
                    return found;
                }
            }
        }
    }

    /// Settles, delivers each event once more to each handler that has handled it, as a bus may do after a crash, and
    /// settles again.
    ///
    /// The effects that a test checks must stay the same: either the handler is idempotent, or its effects are part of
    /// the store's transaction, and then the second delivery does not run it.
    ///
    /// The clock stands still meanwhile: a handler that sleeps on it fails the test after a minute of real time.
    ///
    /// # Panics
    /// If a handler fails at the second delivery; or as [`settle`](Self::settle).
    #[track_caller]
    pub fn deliver_again(&self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            self.settle_for(caller).await;
            let mut delivered = HashSet::new();
            for run in self.runs.ended().into_iter().filter(|run| run.error.is_none()) {
                let (delivery, metadata) = (&run.delivery, run.delivery.metadata());
                let (stream, event) = (metadata.stream().clone(), metadata.event_id());
                // each event once: earlier second deliveries are runs too
                if delivered.insert((delivery.group().clone(), run.handler.clone(), stream, event)) {
                    self.deliver(&run, caller).await;
                }
            }
            self.settle_for(caller).await;
        }
    }

    /// Ends the app as a crash of its process does: each task ends where it waits, and saves and releases no more. The
    /// store stays, also for [`save`](Self::save); [`restart`](Self::restart) starts the app again.
    ///
    /// # Panics
    /// If a handler blocks the thread for a minute of real time.
    #[track_caller]
    pub fn crash(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            self.is_crashed = true;
            let ended = async {
                self.app.abort().await;
                while self.runs.running() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            self.in_time(caller, ended).await;
        }
    }

    /// Shuts the app down, unless it has crashed, and starts it again on the same store, with a new bus and the states
    /// and projections of a new builder. If `build` gives the builder a store, make that store outside of `build`, and
    /// clone it there.
    ///
    /// After a crash, an event that was in flight waits for a second, because it may be the cause, and a projection
    /// with rows waits until the former lease has expired: [advance](Self::advance) the clock past both.
    ///
    /// # Panics
    /// If the app does not shut down within a minute of real time, or does not start.
    #[track_caller]
    pub fn restart(&mut self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            if !self.is_crashed
                && let Err(error) = self.in_time(caller, self.app.shutdown(self.timeout)).await
            {
                panic!("{caller}: {error}");
            }
            self.bus = StoreBus::new();
            let bus = (self.bus.clone(), RecordingBus::new(self.bus.clone(), self.runs.clone()));
            self.app = start_app((self.build)(), &self.store, &self.clock, bus, caller).await;
            self.is_crashed = false;
        }
    }

    fn runs_of<H: Handler>(&self) -> impl Iterator<Item = RecordedRun> + use<H> {
        self.runs.ended().into_iter().filter(|run| *run.handler == *H::definition().name)
    }

    async fn deliver(&self, run: &RecordedRun, caller: &'static Location<'static>) {
        let subscribers = self.app.bus().subscribers();
        let is_its = |subscriber: &&Arc<dyn crate::port::SubscriberStatus>| {
            subscriber.group() == run.delivery.group() && *subscriber.subscriber().name() == run.handler
        };
        let Some(subscriber) = subscribers.iter().find(is_its) else {
            return; // of an earlier start, whose builder had more handlers
        };
        let active = ActiveSubscriber::new(subscriber.group().clone(), subscriber.subscriber().clone());
        let (attempts, clock) = (DeliveryAttempts::default(), SharedClock::new(self.clock.clone()));
        let (subscribers, limits) = ([Arc::new(active)], Limits::default());
        let delivered = dispatch(&subscribers, &run.delivery, &attempts, &limits, &clock, &handler_span);
        if let Outcome::Failed { failures, .. } = self.in_time(caller, delivered).await {
            let metadata = run.delivery.metadata();
            let errors: Vec<_> = failures.iter().map(|failure| failure.error.to_string()).collect();
            panic!(
                "{caller}: `{}` is not idempotent, it failed when {} of {} was delivered again: {}",
                run.handler,
                metadata.event_type(),
                metadata.stream(),
                errors.join("; ")
            );
        }
    }

    async fn settle_for(&self, caller: &'static Location<'static>) {
        let settled = async {
            let (mut last, mut unchanged_since) = (None, Instant::now());
            loop {
                for _ in 0..QUIET_TURNS {
                    tokio::task::yield_now().await;
                }
                if !self.is_crashed {
                    self.bus.flush().await;
                }
                let now = (self.effects(caller).await, self.clock.sleeps_begun());
                let waits = self.clock.woken() == 0 && now.0.running <= self.clock.sleeping_runs();
                if !waits || last.as_ref() != Some(&now) {
                    (last, unchanged_since) = (Some(now), Instant::now());
                } else if !self.has_own_store || self.has_ended(&now.0, unchanged_since).await {
                    return now.0;
                }
            }
        };
        let effects = self.in_time(caller, settled).await;
        self.schedule.lock().note(&self.clock, effects);
        for failure in self.describe_new_failures() {
            eprintln!("{caller}: {failure}");
        }
    }

    /// Describes the runs that have failed since the last call.
    fn describe_new_failures(&self) -> Vec<String> {
        let ended = self.runs.ended_after(self.shown_runs.load(Ordering::Relaxed));
        self.shown_runs.fetch_add(ended.len(), Ordering::Relaxed);
        let describe = |run: RecordedRun| {
            let (error, metadata) = (run.error?, run.delivery.metadata());
            Some(format!(
                "`{}` failed with {} of {}: {error}; unless this made a dead letter, the retry waits for `advance`",
                run.handler,
                metadata.event_type(),
                metadata.stream()
            ))
        };
        ended.into_iter().filter_map(describe).collect()
    }

    /// For an app whose store works in other threads: returns `true` if no work is left, or if the effects have not
    /// changed for a second and so the rest waits for more than those threads. If a projection stays behind, because it
    /// waits for a lease, only the first call waits that second.
    async fn has_ended(&self, effects: &Effects, unchanged_since: Instant) -> bool {
        let waited = unchanged_since.elapsed() >= STORE_WAIT;
        if self.bus.has_work() {
            return waited;
        }
        if !self.app.is_behind().await.unwrap_or_default() {
            return true;
        }
        let mut behind = self.behind.lock();
        if waited {
            *behind = Some(effects.clone());
        }
        behind.as_ref() == Some(effects)
    }

    async fn effects(&self, caller: &Location<'_>) -> Effects {
        match self.app.projections().await {
            Ok(projections) => Effects {
                head: self.app.store().head().await.unwrap_or_default(),
                bus: self.app.bus().stats(),
                projections: projections.iter().map(|status| (status.position, status.stopped.is_some())).collect(),
                runs_begun: self.runs.begun(),
                running: self.runs.running() + self.app.running_projections(),
            },
            Err(error) => panic!("{caller}: {error}"),
        }
    }

    /// Awaits `ended`, and fails the test at the time limit. The limit is real time, also if the test has paused
    /// tokio's clock: only the test moves its own clock.
    async fn in_time<F: Future>(&self, caller: &'static Location<'static>, ended: F) -> F::Output {
        let (began, mut ended) = (Instant::now(), pin!(ended));
        loop {
            if let Poll::Ready(output) = futures_util::poll!(&mut ended) {
                return output;
            }
            assert!(began.elapsed() < self.timeout, "{caller}: {}", self.describe_busy());
            tokio::task::yield_now().await;
        }
    }

    fn describe_busy(&self) -> String {
        let subscribers = self.app.bus().subscribers();
        let mut busy: Vec<_> = subscribers.iter().filter_map(|subscriber| subscriber.handling()).collect();
        if busy.is_empty() {
            busy.push("a projection, or the relay".into());
        }
        format!("the app did not settle within {:?} of real time, busy: {}", self.timeout, busy.join("; "))
    }
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

async fn start_app(
    builder: AppBuilder,
    store: &InMemoryEventStore,
    clock: &ManualClock,
    bus: (StoreBus, RecordingBus),
    caller: &Location<'_>,
) -> App {
    let save_clock = SharedClock::new(SaveClock::new(clock.clone()));
    match builder.in_test(store, bus, SharedClock::new(clock.clone()), save_clock).start().await {
        Ok(app) => app,
        Err(error) => panic!("{caller}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use eventbus::prelude::*;
    use futures_util::FutureExt as _;

    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Order")]
    struct Placed {}

    #[handler(manual)]
    async fn hang(_event: &Placed) {
        std::future::pending::<()>().await;
    }

    #[handler(manual)]
    async fn refuse(_event: &Placed) -> Result<(), &'static str> {
        Err("not yet")
    }

    #[tokio::test]
    async fn the_output_names_each_failed_run_once_and_what_its_retry_waits_for() {
        let app = TestApp::start(|| App::builder().handler::<refuse>()).await;
        app.save("o-1", Placed {}).await;
        app.settle().await;
        assert!(app.describe_new_failures().is_empty(), "the output has it");
        app.shown_runs.store(0, Ordering::Relaxed);
        let expected = "`refuse` failed with Placed of Order/o-1: not yet; unless this made a dead letter, the retry \
                        waits for `advance`";
        assert_eq!(app.describe_new_failures(), [expected]);
    }

    #[tokio::test]
    async fn a_handler_that_waits_for_something_else_fails_the_test() {
        let mut app = TestApp::start(|| App::builder().handler::<hang>()).await;
        app.timeout = Duration::from_millis(50);
        app.save("o-1", Placed {}).await;
        let failed = std::panic::AssertUnwindSafe(app.settle()).catch_unwind().await.unwrap_err();
        let text = failed.downcast_ref::<String>().unwrap();
        assert!(text.contains("test_app.rs:"), "{text}");
        assert!(text.contains(": the app did not settle within 50ms of real time, busy: `hang` "), "{text}");
    }
}
