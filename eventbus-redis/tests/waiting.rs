//! Deliveries that wait for a retry, far more of them than a consumer has in flight: others flow, and order holds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which show what was measured")]

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    config,
    seen::{event, start},
};
use eventbus::{
    Clock, EventFilter, HandlerError, Name, SharedClock,
    port::{EventBus, Subscriber},
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// For how long events fail, by the clock of the bus.
const OUTAGE: Duration = Duration::from_secs(600);

/// What a handler has seen.
#[derive(Default)]
struct Seen {
    handled: AtomicUsize,
    /// How often each event was handled with success.
    times: Mutex<HashMap<String, u32>>,
}

/// Handles events; one in ten aggregates fails until the outage is over.
fn handler(bus: &RedisEventBus, clock: &ManualClock, fails: bool) -> Arc<Seen> {
    let (seen, clock) = (Arc::new(Seen::default()), clock.clone());
    let (noted, ends) = (Arc::clone(&seen), clock.now() + OUTAGE);
    let handle = Subscriber::new(Name::from_static("handler"), EventFilter::All, move |delivery| {
        let aggregate = delivery.metadata().aggregate_id().to_string();
        let is_away = fails && aggregate.ends_with('7') && clock.now() < ends;
        let noted = Arc::clone(&noted);
        Box::pin(async move {
            if is_away {
                return Err(HandlerError::from("away"));
            }
            *noted.times.lock().unwrap().entry(aggregate).or_default() += 1;
            noted.handled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    });
    bus.subscribers().add(bus.default_group().clone(), handle);
    seen
}

/// Handles so many events, each of an aggregate of its own, and returns how long those took that do not fail.
async fn run(events: usize, fails: bool, config: RedisEventBusConfig, patience: Duration) -> Duration {
    let clock = ManualClock::new();
    let bus = RedisEventBus::connect(RedisEventBusConfig { clock: SharedClock::new(clock.clone()), ..config });
    let bus = bus.await.unwrap();
    let seen = handler(&bus, &clock, fails);
    let all: Vec<_> = (0..events).map(|number| event(&number.to_string())).collect();
    for some in all.chunks(5_000) {
        bus.publish(some).await.unwrap();
    }
    let (wanted, began) = (if fails { events - events / 10 } else { events }, Instant::now());
    start(&bus).await;
    let until = async |count, time_passes: bool| {
        let waiting = async {
            while seen.handled.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if time_passes {
                    clock.advance(Duration::from_secs(30));
                }
            }
        };
        let handled = tokio::time::timeout(patience, waiting).await;
        assert!(handled.is_ok(), "{} of {count} were handled", seen.handled.load(Ordering::SeqCst));
    };
    until(wanted, false).await; // the clock stands still: nothing is tried again
    let took = began.elapsed();
    until(events, true).await;
    let times = seen.times.lock().unwrap().values().copied().collect::<Vec<_>>();
    assert!(times.len() == events && times.iter().all(|times| *times == 1), "each once");
    bus.stop_consuming().await;
    assert_eq!(bus.stats().messages_sent_to_dlq, 0);
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_handled_while_far_more_wait_than_a_consumer_has_in_flight() {
    for partitions in [1, 4] {
        let config = RedisEventBusConfig { max_in_hand: Some(50), batch_size: 50, partitions, ..config() };
        run(4_000, true, config, Duration::from_secs(60)).await;
    }
}

/// `cargo test --release -p eventbus-redis --test waiting -- --ignored --nocapture`; `EVENTS` says how many.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn a_tenth_that_fails_for_ten_minutes_leaves_the_others_their_throughput() {
    let events = std::env::var("EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(200_000);
    let patience = Duration::from_secs(1_800);
    for _ in 0..3 {
        let alone = run(events, false, config(), patience).await.as_secs_f64() / events as f64;
        let beside = run(events, true, config(), patience).await.as_secs_f64() / (events - events / 10) as f64;
        println!(
            "{events} events: {:.0}/s, {:.0}/s beside a tenth that fails: {:.2}",
            1.0 / alone,
            1.0 / beside,
            alone / beside
        );
    }
}
