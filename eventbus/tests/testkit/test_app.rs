//! Apps in memory on a clock that the test moves.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    HandlerError, InMemoryEventStore, Never,
    clock::{Clock, SharedClock},
    prelude::*,
    testkit::{Fault, FaultyStore, ManualClock, TestApp},
};
use time::OffsetDateTime;
use tokio::sync::{AcquireError, Notify, Semaphore};

use crate::{
    failure::async_failure_of,
    orders::{Order, OrderClosed, OrderCreated, ParcelShipped, created, shipped},
};

const HOUR: Duration = Duration::from_hours(1);

/// The times of the handler's runs.
#[derive(Clone, Debug)]
struct Times(ManualClock, Arc<Mutex<Vec<OffsetDateTime>>>);

impl Times {
    fn new() -> Self {
        Self(ManualClock::new(), Arc::default())
    }

    fn add(&self) {
        self.1.lock().unwrap().push(self.0.now());
    }

    /// Returns the times between the runs.
    fn delays(&self) -> Vec<Duration> {
        self.1.lock().unwrap().windows(2).map(|pair| (pair[1] - pair[0]).unsigned_abs()).collect()
    }

    fn start<H: eventbus::handler::Handler>(&self) -> impl Future<Output = TestApp> {
        let times = self.clone();
        TestApp::start_on(self.0.clone(), move || App::builder().state(times.clone()).handler::<H>())
    }
}

#[handler(manual)]
async fn patient(_event: &OrderCreated, State(times): State<Times>, attempt: Attempt) -> Result<(), HandlerError> {
    times.add();
    match attempt.0 {
        3 => Ok(()),
        _ => Err(HandlerError::retry_after(Duration::from_mins(100), "not yet")),
    }
}

#[handler(manual)]
async fn hopeless(_event: &OrderCreated, State(times): State<Times>) -> Result<(), &'static str> {
    times.add();
    Err("out of paper")
}

#[handler(manual)]
async fn refuse(_event: &OrderCreated) -> Result<(), HandlerError> {
    Err(HandlerError::permanent("out of paper"))
}

#[handler(manual)]
async fn sleepy(_event: &OrderCreated, State(times): State<Times>, attempt: Attempt) {
    times.add();
    let sleep = if attempt.0 == 1 { 2 * Duration::from_mins(1) } else { Duration::from_secs(30) };
    SharedClock::new(times.0.clone()).sleep(sleep).await;
}

#[tokio::test(start_paused = true)]
async fn a_day_passes_without_real_time_and_each_retry_is_made_at_its_time() {
    let (times, real) = (Times::new(), tokio::time::Instant::now());
    let app = times.start::<patient>().await;
    let began = times.0.now();
    app.save("o-1", created()).await;
    app.advance(25 * HOUR).await;
    assert_eq!(times.delays(), [Duration::from_mins(100); 2]);
    assert_eq!((app.handled::<patient>(), app.failures::<patient>()), (1, vec!["not yet".to_owned(); 2]));
    assert_eq!(times.0.now() - began, 25 * HOUR);
    assert_eq!(real.elapsed(), Duration::ZERO, "no task slept by the machine's clock");
}

#[tokio::test]
async fn all_dead_letters_are_listed_however_large_they_are() {
    let app = TestApp::start(|| App::builder().handler::<refuse>()).await;
    let ids = ["o-1", "o-2", "o-3"];
    for id in ids {
        app.save(id, OrderCreated { customer: "a".repeat(600_000), ..created() }).await;
    }
    app.settle().await;
    let dead_letters = app.dead_letters().await;
    let found: Vec<_> = dead_letters.iter().filter_map(|dead_letter| dead_letter.aggregate_id.as_deref()).collect();
    assert_eq!(found, ids);
}

#[tokio::test(start_paused = true)]
async fn retries_have_the_delays_of_the_policy_until_the_event_is_a_dead_letter() {
    let (times, real) = (Times::new(), tokio::time::Instant::now());
    let app = times.start::<hopeless>().await;
    app.save("o-1", created()).await;
    app.advance(3 * HOUR).await;
    assert!(app.dead_letters().await.is_empty());
    app.advance(2 * HOUR).await;
    let [dead_letter] = &app.dead_letters().await[..] else { panic!("one dead letter") };
    assert_eq!(dead_letter.error.as_deref(), Some("out of paper"));
    let (delays, mut expected) = (times.delays(), Duration::from_millis(100));
    assert_eq!(delays.len() + 1, app.failures::<hopeless>().len());
    for (index, delay) in delays.iter().enumerate() {
        let (least, most) = (expected / 2, expected + Duration::from_millis(2));
        let is_last = index + 1 == delays.len(); // at the end of the four hours
        assert!((is_last || *delay >= least) && *delay <= most, "delay {index}: {delay:?} instead of {expected:?}");
        expected = (expected * 2).min(Duration::from_mins(5));
    }
    let all = delays.iter().sum::<Duration>();
    assert!(all >= 4 * HOUR && all < 4 * HOUR + Duration::from_mins(6), "{all:?}");
    assert_eq!(real.elapsed(), Duration::ZERO, "no task slept by the machine's clock");
}

#[tokio::test]
async fn a_handler_that_sleeps_on_the_clock_settles_and_is_timed_out_by_it() {
    let times = Times::new();
    let app = times.start::<sleepy>().await;
    app.save("o-1", created()).await;
    app.settle().await;
    assert_eq!((app.handled::<sleepy>(), app.failures::<sleepy>().len()), (0, 0));
    app.advance(Duration::from_secs(59)).await;
    assert_eq!(app.failures::<sleepy>().len(), 0);
    app.advance(Duration::from_secs(2)).await; // the limit of a minute, and the first retry
    assert_eq!(app.failures::<sleepy>().len(), 1);
    assert_eq!((app.handled::<sleepy>(), times.1.lock().unwrap().len()), (0, 2));
    app.advance(Duration::from_secs(30)).await;
    assert_eq!(app.handled::<sleepy>(), 1);
}

/// Mails by customer; a set, if the handler is idempotent.
#[derive(Clone, Debug, Default)]
struct Outbox {
    sent: Arc<Mutex<Vec<String>>>,
    customers: Arc<Mutex<BTreeSet<String>>>,
}

#[handler(group = "mail", manual)]
async fn mail(event: &OrderCreated, State(outbox): State<Outbox>) {
    outbox.sent.lock().unwrap().push(event.customer.clone());
}

#[handler(group = "customers", manual)]
async fn remember(event: &OrderCreated, State(outbox): State<Outbox>) {
    outbox.customers.lock().unwrap().insert(event.customer.clone());
}

#[handler(group = "closing", manual)]
async fn close_shipped(_event: &ParcelShipped, meta: &Metadata, orders: Repository<Order>) -> eventbus::Result<()> {
    orders.update(meta.aggregate_id(), |_| Ok::<_, &str>(OrderClosed {})).await?;
    Ok(())
}

#[handler(group = "once", manual)]
async fn only_once(event: &OrderCreated, State(outbox): State<Outbox>) -> Result<(), String> {
    let is_new = outbox.customers.lock().unwrap().insert(event.customer.clone());
    is_new.then_some(()).ok_or_else(|| format!("{} is there", event.customer))
}

#[tokio::test]
async fn a_second_delivery_shows_which_handlers_are_not_idempotent() {
    let app = TestApp::start(|| {
        let app = App::builder().state(Outbox::default());
        app.handler::<mail>().handler::<remember>().handler::<close_shipped>()
    })
    .await;
    app.save("o-1", (created(), shipped("T-1"))).await;
    app.deliver_again().await;
    let outbox = app.state::<Outbox>();
    assert_eq!(*outbox.sent.lock().unwrap(), ["ada", "ada"], "`mail` is not idempotent");
    assert_eq!(outbox.customers.lock().unwrap().len(), 1);
    assert_eq!(app.repository::<Order>().version(&"o-1".parse().unwrap()).await.unwrap().get(), 3, "closed once");
    assert_eq!((app.handled::<mail>(), app.handled::<close_shipped>()), (2, 2));
    app.deliver_again().await;
    assert_eq!((app.handled::<mail>(), app.handled::<close_shipped>()), (3, 3), "each event once more");
}

#[tokio::test]
async fn a_handler_that_fails_at_a_second_delivery_fails_the_test() {
    let app = TestApp::start(|| App::builder().state(Outbox::default()).handler::<only_once>()).await;
    app.save("o-1", created()).await;
    let text = async_failure_of(app.deliver_again()).await;
    let (place, text) = text.split_once(": ").unwrap();
    assert_eq!(
        text,
        "`only_once` is not idempotent, it failed when OrderCreated of Order/o-1 was delivered again: ada is there"
    );
    assert!(place.contains("test_app.rs:"), "{place}");
}

/// Holds a handler in the middle.
#[derive(Clone, Debug)]
struct Gate {
    begun: Arc<Notify>,
    opened: Arc<Semaphore>,
    passed: Arc<Mutex<BTreeSet<String>>>,
}

#[handler(manual)]
async fn pass_gate(event: &ParcelShipped, State(gate): State<Gate>) -> Result<(), AcquireError> {
    gate.begun.notify_one();
    gate.opened.acquire().await?.forget();
    gate.passed.lock().unwrap().insert(event.tracking_number.clone());
    Ok(())
}

#[tokio::test]
async fn a_crash_ends_a_handler_in_the_middle_and_the_event_is_delivered_again() {
    let gate = Gate { begun: Arc::default(), opened: Arc::new(Semaphore::new(0)), passed: Arc::default() };
    let of_app = gate.clone();
    let mut app = TestApp::start(move || App::builder().state(of_app.clone()).handler::<pass_gate>()).await;
    app.save("o-1", shipped("T-1")).await;
    gate.begun.notified().await;
    app.crash().await;
    let [failure] = &app.failures::<pass_gate>()[..] else { panic!("one run") };
    assert_eq!(failure, "the run ended without an outcome: a panic, the time limit, or a crash");
    gate.opened.add_permits(2);
    app.save("o-2", shipped("T-2")).await;
    app.settle().await;
    assert!(gate.passed.lock().unwrap().is_empty(), "no process runs");
    app.restart().await;
    app.settle().await;
    assert_eq!(gate.passed.lock().unwrap().len(), 2);
    assert_eq!(app.handled::<pass_gate>(), 2);
}

/// Rows outside of the store: one process at a time feeds them.
#[derive(Debug)]
struct Rows(Arc<Mutex<Vec<String>>>);

#[projection(name = "rows", manual)]
impl Rows {
    fn shipped(&self, event: &ParcelShipped) {
        self.0.lock().unwrap().push(event.tracking_number.clone());
    }
}

#[derive(Debug, Default)]
struct Count(u64);

#[projection(name = "count", manual)]
impl Count {
    fn shipped(&mut self, _event: &ParcelShipped) {
        self.0 += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_a_lease_expires_by_the_clock() {
    let (rows, real) = (Arc::<Mutex<Vec<String>>>::default(), tokio::time::Instant::now());
    let of_app = Arc::clone(&rows);
    let mut app =
        TestApp::start(move || App::builder().projection(Rows(Arc::clone(&of_app))).projection_with(Count::default))
            .await;
    app.save("o-1", shipped("T-1")).await;
    app.settle().await;
    assert_eq!(*rows.lock().unwrap(), ["T-1"]);
    app.advance(HOUR).await; // it saves its checkpoint, and renews its lease
    app.crash().await;
    app.save("o-1", shipped("T-2")).await;
    app.restart().await;
    app.settle().await;
    assert_eq!(app.projection::<Count>().unwrap().read().await.0, 2, "state in memory needs no lease");
    app.advance(Duration::from_secs(6)).await;
    assert_eq!(*rows.lock().unwrap(), ["T-1"], "the former process has its lease still");
    app.advance(Duration::from_secs(6)).await;
    assert_eq!(*rows.lock().unwrap(), ["T-1", "T-2"]);
    assert_eq!(real.elapsed(), Duration::ZERO, "no task slept by the machine's clock");
}

#[tokio::test]
async fn a_restart_delivers_nothing_twice_and_makes_new_states() {
    let mut app = TestApp::start(|| {
        let app = App::builder().state(Outbox::default()).projection_with(Count::default);
        app.handler::<mail>()
    })
    .await;
    app.save("o-1", (created(), shipped("T-1"))).await;
    app.settle().await;
    app.restart().await;
    app.settle().await;
    assert_eq!(app.handled::<mail>(), 1);
    assert!(app.state::<Outbox>().sent.lock().unwrap().is_empty(), "the builder made a new one");
    assert_eq!(app.projection::<Count>().unwrap().read().await.0, 1);
}

#[tokio::test]
async fn a_save_whose_reply_is_lost_is_made_again_while_the_test_awaits_it() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let of_app = store.clone();
    let app = TestApp::start(move || App::builder().store(of_app.clone())).await;
    let (orders, id, began) = (app.repository::<Order>(), "o-1".parse().unwrap(), app.clock().now());
    store.appends.fail_next(Fault::LostReply, 1);
    let save = orders.upsert(&id, |_| Ok::<_, Never>(created()));
    let saved = tokio::time::timeout(Duration::from_secs(60), save).await.expect("it does not wait for `advance`");
    assert_eq!(saved.unwrap().version, 1);
    assert_eq!(app.clock().now(), began);
}

#[tokio::test]
async fn an_app_that_does_not_start_fails_the_test_with_the_mistakes() {
    let text = async_failure_of(TestApp::start(|| App::builder().handler::<mail>())).await;
    assert!(text.contains("test_app.rs:") && text.contains("`mail`") && text.contains("Outbox"), "{text}");
}

#[tokio::test]
async fn a_state_that_the_builder_did_not_get_fails_the_test() {
    let app = TestApp::start(App::builder).await;
    let text = crate::failure::failure_of(|| app.state::<Outbox>());
    assert_eq!(text, "the app has no state `testkit::test_app::Outbox`: give it to the builder by `.state(..)`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_of_several_threads_fails_the_test() {
    let text = async_failure_of(TestApp::start(App::builder)).await;
    let (place, text) = text.split_once(": ").unwrap();
    assert_eq!(text, "a `TestApp` needs a runtime with one thread, as `#[tokio::test]` makes it without `flavor`");
    assert!(place.contains("test_app.rs:"), "{place}");
}
