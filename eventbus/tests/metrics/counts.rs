//! Values equal an independent count of the workload.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    AggregateId, App, InMemoryEventStore, Never, Version,
    metrics::Metrics,
    prelude::*,
    testkit::{Fault, FaultyStore, ManualClock, TestApp},
};
use tokio::sync::Semaphore;

use crate::shop::{self, Booked, Order, Paid, Receipt, Sales, Seat, SharedCounts, get};

/// The appends and loads of a workload, counted by itself.
#[derive(Debug, Default, PartialEq)]
struct Saves {
    appends: u64,
    events: u64,
    conflicts: u64,
}

impl Saves {
    fn add(&mut self, events: u64) {
        self.appends += 1;
        self.events += events;
    }
}

fn number(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics.number(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
}

fn count(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> u64 {
    metrics.distribution(name, labels).map_or(0, |distribution| distribution.count)
}

/// Books and pays orders; every third payment meets a writer that was first.
async fn save_orders(app: &App, orders: Range<u64>) -> Saves {
    let (repository, mut saves) = (app.repository::<Order>(), Saves::default());
    for number in orders {
        let id: AggregateId = format!("o-{number}").parse().unwrap();
        let seat = if number % 4 == 0 { format!("x{number}") } else { number.to_string() };
        let events = [Booked { seat: seat.clone() }, Booked { seat }];
        repository.upsert(&id, |_| Ok::<_, Never>(events.clone())).await.unwrap();
        saves.add(2);
        let mut late = repository.load(&id).await.unwrap();
        if number % 3 == 0 {
            repository.update(&id, |_| Ok::<_, Never>(Paid { cents: number })).await.unwrap();
            saves.add(1);
            late.record(Paid { cents: 1 });
            assert!(repository.save(&mut late).await.unwrap_err().is_conflict());
            saves.conflicts += 1;
        } else {
            late.record(Paid { cents: number });
            repository.save(&mut late).await.unwrap();
            saves.add(1);
        }
    }
    saves
}

#[tokio::test]
async fn counts_equal_those_of_the_workload() {
    let counted = SharedCounts::default();
    let app = shop::start(&counted, |builder| builder).await;
    let mut saves = save_orders(&app, 0..24).await;
    // several at once: one append; then one that conflicts
    let orders = app.repository::<Order>();
    let (mut one, mut two) = (orders.create_new("t-1".parse().unwrap()), orders.create_new("t-2".parse().unwrap()));
    one.record(Booked { seat: "a".into() });
    two.record(Booked { seat: "b".into() });
    app.together().save(&mut one).save(&mut two).commit().await.unwrap();
    saves.add(2);
    one.record(Booked { seat: "c".into() });
    orders.update(two.id(), |_| Ok::<_, Never>(Booked { seat: "d".into() })).await.unwrap();
    saves.add(1);
    let error = app.together().save(&mut one).unchanged(&two).commit().await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    saves.conflicts += 1;
    // a decision, and one that is made again, as its boundary moved
    let book = |seat: &'static str| move |_: &Seat| Ok::<_, Never>(Booked { seat: seat.into() });
    app.decision::<Seat>().about("seat", "window").decide(book("window")).await.unwrap();
    saves.add(1);
    app.advance(Duration::from_hours(2)).await;

    let metrics = app.metrics().await;
    let printed = get(&counted.printed);
    assert_eq!(printed, 24, "a receipt for each payment");
    let append = |outcome| count(&metrics, "eventbus_append_seconds", &[("outcome", outcome)]);
    assert_eq!(append("appended"), saves.appends + printed);
    let conflicts = number(&metrics, "eventbus_append_conflicts_total", &[("aggregate", "Order")]);
    assert_eq!((conflicts as u64, append("conflict")), (saves.conflicts, saves.conflicts));
    assert_eq!(number(&metrics, "eventbus_append_conflicts_total", &[("aggregate", "Receipt")]), 0.0);
    let events = metrics.distribution("eventbus_append_events", &[]).unwrap();
    assert_eq!((events.count, events.sum as u64), (saves.appends + printed, saves.events + printed));
    let stored = app.store().head().await.unwrap().get();
    assert_eq!(events.sum as u64, stored, "no event was stored that is not counted");
    assert_eq!(number(&metrics, "eventbus_feed_head", &[]) as u64, stored);

    let runs = |group, handler, outcome| {
        count(&metrics, "eventbus_handler_seconds", &[("group", group), ("handler", handler), ("outcome", outcome)])
    };
    assert_eq!(runs("receipts", "print", "succeeded"), printed);
    assert_eq!(runs("mail", "mail", "succeeded"), get(&counted.succeeded_later));
    assert_eq!(runs("mail", "mail", "failed"), get(&counted.failed));
    assert!(get(&counted.failed) > 10);
    let retries = number(&metrics, "eventbus_handler_retries_total", &[("group", "mail"), ("handler", "mail")]);
    assert_eq!(retries as u64, get(&counted.retried));
    assert_eq!(runs("seats", "assign", "permanent"), get(&counted.refused));
    assert_eq!(runs("seats", "assign", "succeeded"), get(&counted.accepted));
    assert_eq!((runs("slow", "audit", "timed_out"), get(&counted.hung)), (1, 1));
    assert_eq!((runs("slow", "audit", "panicked"), get(&counted.panicked)), (1, 1));
    assert_eq!(runs("slow", "audit", "succeeded"), 22);
    let slow = [("group", "slow"), ("handler", "audit"), ("outcome", "timed_out")];
    assert_eq!(metrics.distribution("eventbus_handler_seconds", &slow).unwrap().sum, 1.0, "its time limit");

    let stats = app.bus().stats();
    let deliveries = |outcome| number(&metrics, "eventbus_deliveries_total", &[("outcome", outcome)]) as u64;
    let counted_by_bus = (stats.events_processed_success, stats.events_processed_failed, stats.events_skipped);
    assert_eq!((deliveries("succeeded"), deliveries("failed"), deliveries("skipped")), counted_by_bus);
    assert!(deliveries("failed") > 10 && deliveries("succeeded") > deliveries("failed"), "{counted_by_bus:?}");

    let dead_letters = app.dead_letters().await.len();
    assert_eq!(dead_letters as u64, get(&counted.refused) + 2);
    assert_eq!(number(&metrics, "eventbus_dead_letters_total", &[]) as usize, dead_letters);
    assert_eq!(number(&metrics, "eventbus_dead_letters", &[]) as usize, dead_letters);

    let sales = [("projection", "sales")];
    assert_eq!(number(&metrics, "eventbus_projection_events_total", &sales) as u64, get(&counted.projected));
    assert_eq!(get(&counted.projected), 24);
    let app_rebuilt = app.rebuild::<Sales>().await.unwrap();
    let metrics = app.metrics().await;
    assert_eq!(number(&metrics, "eventbus_rebuild_events_total", &sales) as u64, app_rebuilt.events);
    let rebuilds =
        |outcome| number(&metrics, "eventbus_rebuilds_total", &[("projection", "sales"), ("outcome", outcome)]) as u64;
    assert_eq!((rebuilds("done"), rebuilds("failed")), (1, 0));
    assert_eq!(number(&metrics, "eventbus_rebuild_done_ratio", &sales), 1.0);
    assert_eq!(
        number(&metrics, "eventbus_projection_events_total", &sales),
        24.0,
        "a rebuild beside it does not count"
    );
}

#[tokio::test]
async fn a_boundary_that_moved_is_counted() {
    let app = TestApp::start(App::builder).await;
    let inner = app.repository::<Order>();
    let decide = |_: &Seat| Ok::<_, Never>(Booked { seat: "window".into() });
    let first = AtomicBool::new(true);
    let decision = app.decision::<Seat>().about("seat", "window");
    let (interferes, id) = (inner.clone(), "other".parse().unwrap());
    let decided = decision.decide(move |seat: &Seat| {
        if first.swap(false, Ordering::Relaxed) {
            // a second writer adds to the boundary while this decision is made
            let booked = interferes.upsert(&id, |_| Ok::<_, Never>(Booked { seat: "window".into() }));
            futures_util::FutureExt::now_or_never(booked).unwrap().unwrap();
        }
        decide(seat)
    });
    let advanced = async {
        app.advance(Duration::from_secs(10)).await;
    };
    let (decided, ()) = tokio::join!(decided, advanced);
    decided.unwrap();
    let metrics = app.metrics().await;
    assert_eq!(number(&metrics, "eventbus_boundary_conflicts_total", &[]), 1.0);
    assert_eq!(count(&metrics, "eventbus_append_seconds", &[("outcome", "conflict")]), 1);
    assert_eq!(count(&metrics, "eventbus_append_seconds", &[("outcome", "appended")]), 2);
}

#[tokio::test]
async fn loads_are_counted_by_where_the_state_was_found() {
    let app = TestApp::start(App::builder).await;
    let (orders, id) = (app.repository::<Order>(), "o-1".parse().unwrap());
    let pay = |_: &Order| Ok::<_, Never>([Paid { cents: 1 }, Paid { cents: 2 }]);
    orders.upsert(&id, pay).await.unwrap(); // loads events: there are none
    let _ = orders.load(&id).await.unwrap(); // loads events
    orders.update(&id, pay).await.unwrap(); // loads events; the fourth event asks for a snapshot
    app.settle().await;
    let _ = orders.load(&id).await.unwrap(); // loads the snapshot
    orders.update(&id, |_| Ok::<_, Never>(Paid { cents: 3 })).await.unwrap(); // loads the snapshot
    let cached = app.repository::<Order>().with_cache(10);
    let _ = cached.load(&id).await.unwrap(); // loads the snapshot and the event after it
    let _ = cached.load(&id).await.unwrap(); // finds the state
    let metrics = app.metrics().await;
    let loads = ["events", "snapshot", "cache"]
        .map(|source| number(&metrics, "eventbus_loads_total", &[("aggregate", "Order"), ("source", source)]) as u64);
    assert_eq!(loads, [3, 3, 1]);
    let snapshots = |metrics: &_, outcome| {
        number(metrics, "eventbus_snapshots_total", &[("aggregate", "Order"), ("outcome", outcome)]) as u64
    };
    assert_eq!((snapshots(&metrics, "taken"), snapshots(&metrics, "failed")), (1, 0));
    for _ in 0..2 {
        assert_eq!(orders.snapshot(&id).await.unwrap(), Version::new(5)); // the second one would be the same
    }
    orders.snapshot(&"o-2".parse().unwrap()).await.unwrap_err(); // there is no such order
    let metrics = app.metrics().await;
    assert_eq!((snapshots(&metrics, "taken"), snapshots(&metrics, "failed")), (2, 0));
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Vault)]
struct Opened {}

/// A state that cannot be written, so that no snapshot can be taken of it.
#[derive(Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Opened), snapshot(every = 100))]
struct Vault {
    #[serde(serialize_with = "refuse")]
    secret: u64,
}

fn refuse<S: serde::Serializer>(_secret: &u64, _serializer: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("it is secret"))
}

impl Apply for Vault {
    fn apply(&mut self, _event: &VaultEvent) {
        self.secret += 1;
    }
}

/// Refuses all events once the test has set its flag.
#[derive(Debug, Default)]
struct Refusing;

#[projection(name = "refusing")]
impl Refusing {
    fn opened(&mut self, _event: &Opened, State(refuses): State<Arc<AtomicBool>>) -> Result<(), HandlerError> {
        match refuses.load(Ordering::Relaxed) {
            true => Err(HandlerError::permanent("no more")),
            false => Ok(()),
        }
    }
}

#[tokio::test]
async fn failed_snapshots_and_rebuilds_are_counted() {
    let refuses = Arc::new(AtomicBool::new(false));
    let builder = App::builder().store(InMemoryEventStore::new()).state(Arc::clone(&refuses));
    let app = builder.projection_with(Refusing::default).start().await.unwrap();
    let (vaults, id) = (app.repository::<Vault>(), "v-1".parse().unwrap());
    vaults.upsert(&id, |_| Ok::<_, Never>(Opened {})).await.unwrap();
    app.settled().await.unwrap();
    vaults.snapshot(&id).await.unwrap_err();
    refuses.store(true, Ordering::Relaxed);
    app.rebuild::<Refusing>().await.unwrap_err();
    let metrics = app.metrics().await;
    let of = |name, label, outcome| number(&metrics, name, &[label, ("outcome", outcome)]) as u64;
    let snapshots = ["taken", "failed"].map(|outcome| of("eventbus_snapshots_total", ("aggregate", "Vault"), outcome));
    let rebuilds = ["done", "failed"].map(|outcome| of("eventbus_rebuilds_total", ("projection", "refusing"), outcome));
    assert_eq!((snapshots, rebuilds), ([0, 1], [0, 1]));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

/// Waits at each event for a permit.
#[derive(Debug, Default)]
struct Audit;

#[projection(name = "audit")]
impl Audit {
    async fn opened(&mut self, _event: &Opened, State(may_go_on): State<Arc<Semaphore>>) {
        may_go_on.acquire().await.unwrap().forget();
    }
}

#[tokio::test]
async fn the_share_of_a_rebuild_is_shown_while_it_runs() {
    let may_go_on = Arc::new(Semaphore::new(1));
    let builder = App::builder().store(InMemoryEventStore::new()).state(Arc::clone(&may_go_on));
    let app = builder.projection_with(Audit::default).start().await.unwrap();
    let opened = |_: &Vault| Ok::<_, Never>(Opened {});
    app.repository::<Vault>().upsert(&"v-1".parse().unwrap(), opened).await.unwrap();
    app.settled().await.unwrap();
    let share = async || number(&app.metrics().await, "eventbus_rebuild_done_ratio", &[("projection", "audit")]);
    assert_eq!(share().await, 1.0, "none runs");
    let waiting = async {
        while share().await != 0.0 {
            tokio::task::yield_now().await;
        }
        may_go_on.add_permits(1);
    };
    let (rebuilt, waited) =
        tokio::join!(app.rebuild::<Audit>(), tokio::time::timeout(Duration::from_secs(60), waiting));
    waited.expect("a running rebuild has done less than all");
    assert_eq!((rebuilt.unwrap().events, share().await), (1, 1.0));
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Badge, unique(number))]
struct Issued {
    number: u32,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Issued))]
struct Badge;

impl Apply for Badge {
    fn apply(&mut self, _event: &BadgeEvent) {}
}

#[tokio::test]
async fn appends_are_counted_by_their_outcome() {
    let store = FaultyStore::new(InMemoryEventStore::new());
    let app = App::builder().store(store.clone()).start().await.unwrap();
    let (orders, id) = (app.repository::<Order>(), "o-1".parse().unwrap());
    let pay = || orders.once("k".parse().unwrap(), "pay");
    let is_first = AtomicBool::new(true);
    let decide = |_: &Order| {
        if is_first.swap(false, Ordering::Relaxed) {
            // a second client sends the same command, which takes effect while this one is decided
            let paid = pay();
            let paid = paid.upsert(&id, |_| Ok::<_, Never>(Paid { cents: 1 }));
            futures_util::FutureExt::now_or_never(paid).unwrap().unwrap();
        }
        Ok::<_, Never>(Paid { cents: 1 })
    };
    pay().upsert(&id, decide).await.unwrap();
    store.appends.fail_next(Fault::Unavailable, 1);
    let mut order = orders.load(&id).await.unwrap();
    order.record(Paid { cents: 2 });
    orders.save(&mut order).await.unwrap_err();
    let badges = app.repository::<Badge>();
    let issued = |_: &Badge| Ok::<_, Never>(Issued { number: 7 });
    badges.create(&"ada".parse().unwrap(), issued).await.unwrap();
    assert!(badges.create(&"bob".parse().unwrap(), issued).await.unwrap_err().is_taken("number"));
    let metrics = app.metrics().await;
    let outcomes = ["appended", "repeated", "conflict", "refused", "unavailable", "unknown"]
        .map(|outcome| count(&metrics, "eventbus_append_seconds", &[("outcome", outcome)]));
    assert_eq!(outcomes, [2, 1, 0, 1, 1, 0]);
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[handler(group = "packing")]
async fn pack(_: &Paid, State(may_end): State<Arc<Semaphore>>) {
    may_end.acquire().await.unwrap().forget();
}

#[tokio::test]
async fn handlers_that_run_are_counted_until_they_end() {
    let (clock, may_end) = (ManualClock::new(), Arc::new(Semaphore::new(0)));
    let builder = App::builder().clock(clock.clone()).store(InMemoryEventStore::new());
    let app = builder.state(Arc::clone(&may_end)).handler::<pack>().start().await.unwrap();
    for id in ["o-1", "o-2"] {
        let paid = |_: &Order| Ok::<_, Never>(Paid { cents: 1 });
        app.repository::<Order>().upsert(&id.parse().unwrap(), paid).await.unwrap();
    }
    let labels = [("group", "packing"), ("handler", "pack")];
    let running = async |runs: f64| {
        let waiting = async {
            while app.metrics().await.number("eventbus_handler_running", &labels) != Some(runs) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("{runs} never run"));
    };
    running(1.0).await;
    // the handler gets the other aggregate's event once it has run for ten seconds
    clock.advance(Duration::from_secs(11));
    running(2.0).await;
    for runs in [1.0, 0.0] {
        may_end.add_permits(1);
        running(runs).await;
    }
    app.shutdown(Duration::from_secs(60)).await.unwrap();
}

#[handler(group = "mail")]
async fn fail_once(_: &Paid, attempt: Attempt) -> Result<(), HandlerError> {
    match attempt.0 {
        1 => Err(HandlerError::retry_after(Duration::from_hours(1), "the mail server is away")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn waiting_deliveries_and_blocked_streams_are_shown_until_they_are_done() {
    let app = TestApp::start(|| App::builder().handler::<fail_once>()).await;
    app.save("o-1", [Paid { cents: 1 }, Paid { cents: 2 }, Paid { cents: 3 }]).await;
    app.save("o-2", Paid { cents: 1 }).await;
    let group = [("group", "mail")];
    let now = async || {
        let metrics = app.metrics().await;
        let names = ["in_flight", "waiting", "blocked_streams", "unfinished_seconds", "pending", "consumers"];
        names.map(|name| number(&metrics, &format!("eventbus_group_{name}"), &group) as u64)
    };
    app.advance(Duration::from_secs(90)).await;
    assert_eq!(now().await, [4, 2, 1, 90, 4, 1], "o-1 blocks two events");
    app.advance(Duration::from_hours(24)).await;
    assert_eq!(now().await, [0, 0, 0, 0, 0, 1]);
    let receipts = app.repository::<Receipt>();
    assert!(receipts.find(&"o-1".parse().unwrap()).await.unwrap().is_none());
}
