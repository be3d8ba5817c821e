//! Projections: live, rebuilt, stopped.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, ProjectionHandle, StreamId,
    health::HealthThresholds,
    port::{AppendEvents, Checkpoints, EventStore},
    prelude::*,
    projection::{ProjectionError, RebuildError},
    testkit::ManualClock,
};
use futures_util::poll;
use time::macros::datetime;
use tokio::sync::Semaphore;

use crate::{
    gated::GatedStore,
    orders::{Order, OrderCreated, OrderShipped, OrderStatistics, created},
    wait::until,
};

async fn save(store: &impl AppendEvents, events: usize) -> Position {
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    let mut news = vec![NewEvent::from_event(&created("ada", 1.5)).unwrap()];
    news.extend((1..events).map(|_| NewEvent::from_event(&OrderShipped { tracking_number: "T".into() }).unwrap()));
    let records = store.append(&stream, ExpectedVersion::NoStream, news).await.unwrap();
    records.last().unwrap().position().unwrap()
}

async fn app(store: impl EventStore) -> App {
    App::builder().store(store).projection_with(OrderStatistics::default).start().await.unwrap()
}

#[tokio::test]
async fn read_your_own_writes() {
    let app = app(InMemoryEventStore::new()).await;
    let orders = app.repository::<Order>();
    for n in 1..=20 {
        let mut order = orders.create_new(AggregateId::new());
        order.record(created("ada", 2.0));
        let saved = orders.save(&mut order).await.unwrap();
        let statistics = app.projected::<OrderStatistics>(saved.position).await.unwrap();
        assert_eq!((statistics.orders, statistics.revenue), (n, 2.0 * n as f64));
        assert!(statistics.position() >= saved.position.unwrap());
    }
}

#[tokio::test]
async fn what_cannot_be_read_stops_it_and_is_an_alert_that_says_since_when() {
    let clock = ManualClock::at(datetime!(2031-05-01 12:00 UTC));
    let store = GatedStore::over(InMemoryEventStore::with_clock(clock.clone()));
    let app = App::builder().clock(clock.clone()).store(store.clone()).projection_with(OrderStatistics::default);
    let app = app.start().await.unwrap();
    let alerts = async || app.health().await.alerts(&HealthThresholds::default());
    assert!(alerts().await.is_empty());
    store.is_damaged.store(true, Ordering::SeqCst);
    until("it stopped", async || {
        clock.advance(Duration::from_millis(100));
        alerts().await.iter().any(|alert| alert.contains("`order-statistics` stopped before position 1"))
    })
    .await;
    clock.advance(Duration::from_secs(3_600));
    let said = alerts().await.join("; ");
    assert!(said.contains("position 3") && said.contains("(since 2031-05-01T12:00:"), "{said}");
    assert!(matches!(
        app.projected::<OrderStatistics>(Position::new(1)).await.unwrap_err(),
        ProjectionError::Damaged { .. }
    ));
    store.is_damaged.store(false, Ordering::SeqCst);
    app.rebuild::<OrderStatistics>().await.unwrap();
    until("all is well", async || {
        clock.advance(Duration::from_secs(1));
        alerts().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn begins_at_zero_in_each_process() {
    let store = InMemoryEventStore::new();
    let position = save(&store, 3).await;
    for _ in 0..2 {
        let app = app(store.clone()).await;
        assert_eq!(app.projected::<OrderStatistics>(position).await.unwrap().shipped, 2);
        app.shutdown(Duration::from_secs(5)).await.unwrap();
    }
    let checkpoint = Name::from_static("projection:order-statistics");
    assert_eq!(store.load_checkpoint(&checkpoint).await.unwrap(), None);
}

#[tokio::test]
async fn an_app_is_ready_once_its_state_in_memory_includes_what_was_stored_at_its_start() {
    let store = GatedStore::open();
    save(&store, 3).await;
    store.events.forget_permits(Semaphore::MAX_PERMITS);
    store.events.add_permits(2);
    let app = App::builder().store(store.clone()).without_relay().projection_with(OrderStatistics::default);
    let app = app.start().await.unwrap();
    assert!(!app.health().await.is_ready(), "it has read no event");
    let statistics = app.projection::<OrderStatistics>().unwrap();
    until("two of three events are handled", async || statistics.position() == 2).await;
    let health = app.health().await;
    assert!(!health.is_ready());
    let expected = "projection `order-statistics` has yet to include the events that were stored when this process \
                    started: it is at position 2";
    assert_eq!(health.alerts(&HealthThresholds::default()), [expected]);
    let mut read = pin!(app.projected::<OrderStatistics>(None));
    assert!(poll!(&mut read).is_pending(), "its state is not complete");
    // later events do not count: a busy store has always more
    save(&store, 2).await;
    store.events.add_permits(1);
    assert_eq!(read.await.unwrap().shipped, 2);
    assert_eq!(statistics.position(), 3);
    assert!(app.health().await.is_ready());
}

#[tokio::test]
async fn a_projection_that_stops_while_it_catches_up_leaves_the_app_ready_and_is_not_read() {
    let store = GatedStore::open();
    save(&store, 3).await;
    store.damaged_at.store(2, Ordering::SeqCst);
    let app = app(store).await;
    until("it stopped", async || !app.health().await.projections.is_empty()).await;
    assert!(app.health().await.is_ready());
    let error = app.projected::<OrderStatistics>(None).await.map(drop).unwrap_err();
    assert!(matches!(error, ProjectionError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_rebuild_equals_the_live_state_and_shows_progress() {
    let store = InMemoryEventStore::new();
    for _ in 0..300 {
        save(&store, 3).await;
    }
    let app = app(store.clone()).await;
    let live = {
        let statistics = app.projected::<OrderStatistics>(Position::new(900)).await.unwrap();
        (statistics.orders, statistics.shipped, statistics.revenue)
    };
    let mut seen = Vec::new();
    let rebuilt = app.rebuild::<OrderStatistics>().on_progress(|now| seen.push(now)).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (900, Position::new(900)));
    assert!(seen.len() >= 4 && seen.windows(2).all(|pair| pair[0].position <= pair[1].position), "{seen:?}");
    assert!(seen.iter().all(|now| now.target == 900));
    let statistics = app.projection::<OrderStatistics>().unwrap().read().await;
    assert_eq!((statistics.orders, statistics.shipped, statistics.revenue), live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_come_while_rebuilding_are_counted_once() {
    let store = InMemoryEventStore::new();
    let app = app(store.clone()).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..2_000 {
                save(&store, 2).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let mut rebuilds = 0;
    while !writer.is_finished() || rebuilds < 5 {
        app.rebuild::<OrderStatistics>().await.unwrap();
        rebuilds += 1;
    }
    writer.await.unwrap();
    let statistics = app.projected::<OrderStatistics>(Position::new(4_000)).await.unwrap();
    assert_eq!((statistics.orders, statistics.shipped), (2_000, 2_000), "after {rebuilds} rebuilds");
}

#[tokio::test]
async fn a_projection_by_hand_is_rebuilt_from_a_store() {
    let store = InMemoryEventStore::new();
    save(&store, 3).await;
    let statistics = ProjectionHandle::with_factory(OrderStatistics::default);
    statistics.rebuild(&store).await.unwrap();
    statistics.rebuild(&store).await.unwrap();
    assert_eq!(statistics.read().await.shipped, 2);
    assert_eq!(statistics.position(), 3);
    let given = ProjectionHandle::new(OrderStatistics::default());
    assert!(matches!(given.rebuild(&store).await, Err(RebuildError::NoFactory { name: "order-statistics" })));
}

#[derive(Default)]
struct Picky(Arc<AtomicU32>, u64);

#[projection(name = "picky")]
impl Picky {
    fn created(&mut self, event: &OrderCreated) -> Result<(), String> {
        if self.0.load(Ordering::SeqCst) == 0 && event.customer_id == "bad" {
            return Err("no such customer".into());
        }
        self.1 += 1;
        Ok(())
    }
}

#[tokio::test]
async fn a_failing_event_stops_the_projection_visibly_and_a_rebuild_frees_it() {
    let store = InMemoryEventStore::new();
    let mended = Arc::new(AtomicU32::new(0));
    let make = Arc::clone(&mended);
    let app = App::builder()
        .store(store.clone())
        .projection_with(move || Picky(Arc::clone(&make), 0))
        .projection(OrderStatistics::default())
        .start()
        .await
        .unwrap();
    save(&store, 1).await;
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    let bad = NewEvent::from_event(&created("bad", 1.0)).unwrap();
    store.append(&stream, ExpectedVersion::Any, vec![bad]).await.unwrap();
    let last = save(&store, 1).await;

    let Err(error) = app.projected::<Picky>(last).await.map(drop) else { panic!("not stopped") };
    assert!(matches!(&error, ProjectionError::Stopped { position, .. } if *position == 2), "{error}");
    assert_eq!(error.to_string(), "projection `picky` stopped at position 2: no such customer");
    assert_eq!(app.projected::<OrderStatistics>(last).await.unwrap().orders, 3, "others go on");
    let refused = app.rebuild::<Picky>().await.unwrap_err();
    assert!(matches!(refused, RebuildError::Failed { position, .. } if position == 2), "{refused}");

    mended.store(1, Ordering::SeqCst);
    app.rebuild::<Picky>().await.unwrap();
    assert_eq!(app.projected::<Picky>(last).await.unwrap().1, 3);
    let next = save(&store, 1).await;
    assert_eq!(app.projected::<Picky>(next).await.unwrap().1, 4, "it goes on live");
}

#[derive(Default)]
struct Rows {
    handled: AtomicU64,
    failures: AtomicU32,
    /// The number of failures.
    most: u32,
}

#[projection(name = "rows")]
impl Rows {
    async fn any(&self, event: &RecordedEvent) -> Result<(), HandlerError> {
        if event.event_type() == "OrderShipped" && self.failures.fetch_add(1, Ordering::SeqCst) < self.most {
            return Err("busy".into());
        }
        self.handled.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn a_projection_with_rows_of_its_own_retries_and_resumes_at_its_checkpoint() {
    let store = InMemoryEventStore::new();
    let position = save(&store, 2).await;
    let first =
        App::builder().store(store.clone()).projection(Rows { most: 2, ..Rows::default() }).start().await.unwrap();
    assert_eq!(first.projected::<Rows>(position).await.unwrap().handled.load(Ordering::SeqCst), 2);
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    let checkpoint = Name::from_static("projection:rows");
    assert_eq!(store.load_checkpoint(&checkpoint).await.unwrap(), Some(position));

    let second =
        App::builder().store(store.clone()).projection(Rows { most: 2, ..Rows::default() }).start().await.unwrap();
    let next = save(&store, 1).await;
    assert_eq!(second.projected::<Rows>(next).await.unwrap().handled.load(Ordering::SeqCst), 1, "only what is new");
    second.rebuild::<Rows>().await.unwrap();
    let handled = &second.projection::<Rows>().unwrap().read().await.handled;
    until("every event is handled again", async || handled.load(Ordering::SeqCst) >= 4).await;
}

/// Advances the clock until the condition holds.
async fn moved_until(clock: &ManualClock, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    until(what, async || {
        clock.advance(Duration::from_secs(1));
        is_so().await
    })
    .await;
}

#[tokio::test]
async fn state_in_memory_is_folded_anew_every_minute_after_an_event_failed() {
    let clock = ManualClock::new();
    let store = InMemoryEventStore::with_clock(clock.clone());
    let mended = Arc::new(AtomicU32::new(0));
    let (make, made) = (Arc::clone(&mended), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&made);
    let app = App::builder().clock(clock.clone()).store(store.clone()).projection_with(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Picky(Arc::clone(&make), 0)
    });
    let app = app.start().await.unwrap();
    save(&store, 1).await;
    let stream = StreamId::new(Name::from_static("Order"), AggregateId::new());
    let bad = NewEvent::from_event(&created("bad", 1.0)).unwrap();
    store.append(&stream, ExpectedVersion::Any, vec![bad]).await.unwrap();
    let last = save(&store, 1).await;
    assert!(app.projected::<Picky>(last).await.is_err());
    let since = app.projections().await.unwrap()[0].stopped_since;
    moved_until(&clock, "it is folded three times more", async || made.load(Ordering::SeqCst) >= 4).await;
    assert_eq!(app.projections().await.unwrap()[0].stopped_since, since);
    assert_eq!(app.projection::<Picky>().unwrap().read().await.1, 1, "what it was serves meanwhile");

    mended.store(1, Ordering::SeqCst);
    moved_until(&clock, "it goes on", async || app.projections().await.unwrap()[0].stopped.is_none()).await;
    let statistics = app.projection::<Picky>().unwrap();
    moved_until(&clock, "it has come to the end", async || statistics.position() >= last).await;
    assert_eq!(statistics.read().await.1, 3, "each event counts once");
}

#[tokio::test]
async fn a_projection_with_rows_of_its_own_tries_again_every_minute() {
    let clock = ManualClock::new();
    let store = InMemoryEventStore::with_clock(clock.clone());
    let rows = Rows { most: 9, ..Rows::default() };
    let app = App::builder().clock(clock.clone()).store(store.clone()).projection(rows).start().await.unwrap();
    let position = save(&store, 2).await;
    moved_until(&clock, "it stops", async || app.projections().await.unwrap()[0].stopped_since.is_some()).await;
    moved_until(&clock, "it goes on by itself", async || app.projection::<Rows>().unwrap().position() >= position)
        .await;
    let rows = app.projection::<Rows>().unwrap();
    let rows = rows.read().await;
    assert_eq!(rows.failures.load(Ordering::SeqCst), 10, "four tries, four a minute later, two in the third");
    assert!(app.projections().await.unwrap()[0].stopped.is_none());
}

#[derive(Default)]
struct Shaky(u32);

#[projection(name = "shaky")]
impl Shaky {
    fn created(&mut self, _event: &OrderCreated) -> Result<(), &'static str> {
        self.0 += 1;
        Err("half done")
    }
}

#[tokio::test]
async fn a_state_that_may_be_half_changed_is_not_tried_again() {
    let app = App::builder().projection_with(Shaky::default).start().await.unwrap();
    let position = save(app.store(), 1).await;
    let stopped = app.projected::<Shaky>(position).await.map(drop);
    assert!(matches!(stopped, Err(ProjectionError::Stopped { .. })));
    assert_eq!(app.projection::<Shaky>().unwrap().read().await.0, 1);
}

/// Panics at its first event, whose first half it has counted.
struct Fragile {
    halves: u32,
    runs: Arc<AtomicU32>,
}

#[projection(name = "fragile", manual)]
impl Fragile {
    fn created(&mut self, _event: &OrderCreated) {
        self.halves += 1;
        assert!(self.runs.fetch_add(1, Ordering::SeqCst) > 0, "made by the test");
        self.halves += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_may_be_half_changed_is_not_tried_again_after_its_factory_panicked() {
    let (runs, instances) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let (runs_of_all, made) = (Arc::clone(&runs), Arc::clone(&instances));
    let make = move || {
        assert!(made.fetch_add(1, Ordering::SeqCst) != 1, "made by the test");
        Fragile { halves: 0, runs: Arc::clone(&runs_of_all) }
    };
    let app = App::builder().projection_with(make).start().await.unwrap();
    let position = save(app.store(), 1).await;
    let stopped = app.projected::<Fragile>(position).await.map(drop);
    assert!(matches!(stopped, Err(ProjectionError::Stopped { .. })));
    // the factory panics at the first retry, and not at the second one
    tokio::time::sleep(Duration::from_secs(120)).await;
    until("it goes on", async || app.projections().await.unwrap()[0].position == position).await;
    assert_eq!(app.projected::<Fragile>(position).await.unwrap().halves, 2);
    assert_eq!((runs.load(Ordering::SeqCst), instances.load(Ordering::SeqCst)), (2, 3));
}

#[derive(Default)]
struct Patient(AtomicU64);

#[projection(name = "patient")]
impl Patient {
    async fn created(&self, _event: &OrderCreated) -> Result<(), HandlerError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(HandlerError::retry_after(Duration::from_secs(5), "closed")),
            _ => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_projection_with_rows_of_its_own_says_when_to_try_again() {
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).projection(Patient::default()).start().await.unwrap();
    let began = tokio::time::Instant::now();
    let position = save(&store, 1).await;
    drop(app.projected::<Patient>(position).await.unwrap());
    assert!(began.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn a_panic_stops_the_projection_not_the_app() {
    #[derive(Default)]
    struct Explosive;
    #[projection(name = "explosive")]
    impl Explosive {
        fn created(&mut self, _event: &OrderCreated) {
            panic!("boom");
        }
    }
    let store = InMemoryEventStore::new();
    let app = App::builder().store(store.clone()).projection_with(Explosive::default).start().await.unwrap();
    let position = save(&store, 1).await;
    let Err(error) = app.projected::<Explosive>(position).await.map(drop) else { panic!("not stopped") };
    assert_eq!(error.to_string(), "projection `explosive` stopped at position 1: handler panicked: boom");
    let error = app.rebuild::<Explosive>().await.unwrap_err();
    assert!(matches!(error, RebuildError::Failed { position, .. } if position == 1), "{error}");
}

#[derive(Default)]
struct Namesake;

#[projection(name = "order-statistics", manual)]
impl Namesake {
    fn created(&mut self, _event: &OrderCreated) {}
}

#[tokio::test(start_paused = true)]
async fn waiting_too_long_and_unknown_projections_are_typed() {
    let app = App::builder()
        .projection_with(OrderStatistics::default)
        .wait_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let Err(error) = app.projected::<OrderStatistics>(Position::new(5)).await.map(drop) else { panic!("reached") };
    let expected =
        "projection `order-statistics` is at position 0, 5 was not reached within 50ms: the store ends at position 0";
    assert_eq!(error.to_string(), expected);
    let Err(error) = app.projected::<Picky>(None).await.map(drop) else { panic!("found") };
    assert!(error.to_string().starts_with("the app has no projection `picky` (it has: order-statistics)"), "{error}");
    let Err(error) = app.projected::<Namesake>(None).await.map(drop) else { panic!("found") };
    let expected = "the app runs another type as projection `order-statistics`: ask for that one, or give this one a \
                    `name` of its own";
    assert_eq!(error.to_string(), expected);
}
