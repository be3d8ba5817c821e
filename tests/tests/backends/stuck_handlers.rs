//! Handlers that never return: one awaits, and one blocks its thread.
//!
//! The process with the blocked thread is a second run of this test binary, with its role in an environment variable.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, InMemoryEventStore, NewEvent, StreamId,
    clock::Clock as _,
    health::HealthThresholds,
    port::{EventStore, HandlerProgress as _},
    prelude::*,
    testkit::ManualClock,
};
use eventbus_test::internal::Actor;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Lamp")]
struct Lit {}

#[derive(Clone, Default)]
struct Handled(Arc<AtomicU64>);

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(120), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn light(store: &dyn EventStore, lamp: &str) {
    let stream = StreamId::parse("Lamp", lamp).unwrap();
    store.append(&stream, ExpectedVersion::Any, vec![NewEvent::from_event(&Lit {}).unwrap()]).await.unwrap();
}

/// Never returns for the lamp that hangs.
#[handler(manual, group = "lamps")]
async fn awaits(_event: &Lit, meta: &Metadata, State(handled): State<Handled>) {
    if meta.aggregate_id().as_str() == "hangs" {
        std::future::pending::<()>().await;
    }
    handled.0.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_awaits_for_ever_is_shown_then_ended_after_a_minute_and_others_go_on() {
    let (clock, handled) = (ManualClock::default(), Handled::default());
    let builder = App::builder().clock(clock.clone()).state(handled.clone()).handler::<awaits>();
    let app = builder.start().await.unwrap();
    light(app.store(), "hangs").await;
    for lamp in 0..5 {
        light(app.store(), &format!("lamp-{lamp}")).await;
    }
    wait_until("the handler hangs", async || {
        clock.advance(Duration::from_secs(1));
        !app.health().await.in_flight.is_empty()
    })
    .await;
    let alerts = app.health().await.alerts(&HealthThresholds { in_flight_age: Duration::ZERO, ..Default::default() });
    let alert = alerts.iter().find(|alert| alert.contains("`awaits`")).unwrap();
    assert!(alert.contains("is busy with `Lit`") && alert.contains("since"), "{alert}");
    wait_until("other events are handled", async || handled.0.load(Ordering::SeqCst) == 5).await;
    assert_eq!(app.bus().stats().handler_errors, 0, "it still awaits");
    wait_until("a default alert is raised", async || {
        clock.advance(Duration::from_secs(1));
        !app.health().await.alerts(&HealthThresholds::default()).is_empty()
    })
    .await;
    assert_eq!(app.bus().stats().handler_errors, 0, "it still awaits");
    let since = &app.health().await.in_flight[0].since;
    let began = OffsetDateTime::parse(since, &Rfc3339).unwrap();
    wait_until("a minute is almost over", async || {
        clock.advance(Duration::from_secs(1));
        clock.now() - began >= Duration::from_secs(59)
    })
    .await;
    assert_eq!(app.bus().stats().handler_errors, 0, "it still awaits");
    wait_until("the time limit ends it", async || {
        // slowly, because the app may notice the time late
        clock.advance(Duration::from_millis(10));
        app.bus().stats().handler_errors > 0
    })
    .await;
    let took = clock.now() - began;
    assert!((60..75).contains(&took.whole_seconds()), "it is ended after {took}");
}

/// As [`awaits`], one event at a time.
#[handler(manual, group = "lamps", concurrency = 1)]
async fn awaits_alone(_event: &Lit, meta: &Metadata, State(handled): State<Handled>) {
    if meta.aggregate_id().as_str() == "hangs" {
        std::future::pending::<()>().await;
    }
    handled.0.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_says_how_many_it_handles_at_once_never_gets_more() {
    let (clock, handled) = (ManualClock::default(), Handled::default());
    let builder = App::builder().clock(clock.clone()).state(handled.clone()).handler::<awaits_alone>();
    let app = builder.start().await.unwrap();
    light(app.store(), "hangs").await;
    light(app.store(), "lamp").await;
    wait_until("the time limit ends it", async || {
        let before = handled.0.load(Ordering::SeqCst);
        let has_ended = app.bus().stats().handler_errors > 0;
        assert!(has_ended || before == 0, "a second event is handled beside it");
        clock.advance(Duration::from_secs(1));
        has_ended
    })
    .await;
    wait_until("the other is handled", async || {
        clock.advance(Duration::from_millis(10));
        handled.0.load(Ordering::SeqCst) == 1
    })
    .await;
}

/// Blocks its thread for the lamp that hangs, until the process ends.
#[handler(manual, group = "lamps", timeout_ms = 1_000)]
async fn blocks(_event: &Lit, meta: &Metadata) {
    if meta.aggregate_id().as_str() == "hangs" {
        println!("hangs");
        loop {
            std::thread::park();
        }
    }
    println!("handled {}", meta.aggregate_id());
}

/// The role of the process whose thread is blocked; returns at once in an ordinary run.
#[test]
fn the_process_with_a_blocked_thread() {
    let Ok(role) = env::var("STUCK_ROLE") else {
        return;
    };
    Actor::end_with_parent();
    let mut builder = match role.as_str() {
        "one thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    tracing_subscriber::fmt().with_ansi(false).init();
    let runtime = builder.worker_threads(3).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let store = InMemoryEventStore::new();
        if role == "several threads" {
            // they wait when the app starts, so that the worker handles them without a pause
            for lamp in 1..=20 {
                light(&store, &format!("before-{lamp}")).await;
            }
            light(&store, "hangs").await;
            for lamp in 1..=20 {
                light(&store, &format!("after-{lamp}")).await;
            }
        }
        let builder = App::builder().store(store.clone()).handler::<blocks>();
        let app = builder.shutdown_timeout(Duration::from_secs(1)).start().await?;
        let thresholds = HealthThresholds { in_flight_age: Duration::from_secs(5), ..Default::default() };
        let shared = app.clone();
        if role == "one thread" {
            tokio::spawn(async move { light(shared.store(), "hangs").await });
        } else {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    let listed = store.list_handlers().await.unwrap();
                    let shard = &listed[0].shards[0];
                    println!("saved up to {}, {} runs.", shard.checkpoint, shard.started);
                    shared.health().await.alerts(&thresholds).iter().for_each(|alert| println!("alert: {alert}"));
                }
            });
        }
        app.run_until_signal().await
    });
    println!("stopped: {ended:?}");
    // waits for the blocked thread
    drop(runtime);
}

#[test]
fn a_handler_that_blocks_its_thread_is_named_others_go_on_and_the_process_ends_with_70() {
    let stuck = Actor::play("stuck_handlers::the_process_with_a_blocked_thread", &[("STUCK_ROLE", "several threads")]);
    // the events handled before are saved too, although the task that saves them last woke on the thread that is now
    // blocked
    stuck.until(&["hangs", "handled after-1", "handled after-20", "saved up to 41, 1 runs."]);
    let log = stuck.until(&["}: eventbus::handler: handler blocks its thread"]);
    assert!(log.contains("`tokio::task::spawn_blocking`"), "{log}");
    assert!(!log.contains("Lamp/hangs"), "its span names it: {log}");
    let alert = stuck.until(&["alert: "]);
    assert!(alert.contains("`blocks` of `lamps`") && alert.contains("`Lit`"), "{alert}");
    stuck.signal("TERM");
    // five seconds after the deadline, which is one second
    let last = stuck.until(&["not stopped 6s after the signal, "]);
    assert!(last.contains("`blocks` with `Lit` of `Lamp/hangs`"), "{last}");
    assert!(last.ends_with("the process exits with status 70"), "{last}");
    let (status, printed) = stuck.wait();
    assert_eq!(status.code(), Some(70), "{last} {printed:?}");
}

#[test]
fn a_process_whose_only_thread_is_blocked_ends_with_70() {
    let stuck = Actor::play("stuck_handlers::the_process_with_a_blocked_thread", &[("STUCK_ROLE", "one thread")]);
    stuck.until(&["hangs"]);
    stuck.signal("TERM");
    stuck.until(&["not stopped 6s after the signal, ", "`blocks` with `Lit` of `Lamp/hangs`"]);
    let (status, printed) = stuck.wait();
    assert_eq!(status.code(), Some(70), "{printed:?}");
}
