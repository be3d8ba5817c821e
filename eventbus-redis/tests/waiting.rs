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
    another, config,
    seen::{event, start},
    until,
};
use eventbus::{
    Clock, EventFilter, HandlerError, InMemoryEventBus, RecordedEvent, SharedClock,
    port::{EventBus, Subscriber},
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// For how long events fail, by the clock of the bus.
const OUTAGE: Duration = Duration::from_secs(600);

/// How the clock of the bus goes while those are handled that do not fail; the rest of the outage passes afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clockwork {
    /// It stands: nothing is tried again.
    Stands,
    /// As fast as that of the machine.
    Goes,
    /// The whole outage passes meanwhile, with all retries that fall into it.
    Races,
}

/// What a bus is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Only the nine tenths that never fail.
    NineTenths,
    /// All, and none fails.
    All,
    /// All, and a tenth fails until the outage is over.
    AndATenthFails,
}

/// What was measured.
struct Measured {
    /// How long the nine tenths took.
    took: Duration,
    /// How often an event failed meanwhile.
    failures: usize,
}

/// What a handler has seen.
#[derive(Default)]
struct Seen {
    /// How many of those were handled that never fail.
    others: AtomicUsize,
    failures: AtomicUsize,
    /// How often each event was handled with success.
    times: Mutex<HashMap<String, u32>>,
}

/// Whether it is one of the tenth that may fail.
fn may_fail(aggregate: &str) -> bool {
    aggregate.ends_with('7')
}

fn handler(bus: &impl EventBus, clock: &ManualClock, load: Load) -> Arc<Seen> {
    let (seen, clock) = (Arc::new(Seen::default()), clock.clone());
    let (noted, ends) = (Arc::clone(&seen), clock.now() + OUTAGE);
    let handle = Subscriber::new(eventbus::Name::from_static("handler"), EventFilter::All, move |delivery| {
        let aggregate = delivery.metadata().aggregate_id().to_string();
        let may_fail = may_fail(&aggregate);
        let fails = may_fail && load == Load::AndATenthFails && clock.now() < ends;
        let noted = Arc::clone(&noted);
        Box::pin(async move {
            if fails {
                noted.failures.fetch_add(1, Ordering::SeqCst);
                return Err(HandlerError::from("away"));
            }
            *noted.times.lock().unwrap().entry(aggregate).or_default() += 1;
            noted.others.fetch_add(usize::from(!may_fail), Ordering::SeqCst);
            Ok(())
        })
    });
    bus.subscribers().add(bus.default_group().clone(), handle);
    seen
}

/// Has so many events handled, each of an aggregate of its own, and checks that each was handled once, those that failed
/// after the outage.
async fn run<B: EventBus + Clone>(bus: B, clock: &ManualClock, events: usize, load: Load, time: Clockwork) -> Measured {
    let seen = handler(&bus, clock, load);
    let ids = (0..events).map(|number| number.to_string()).filter(|id| load != Load::NineTenths || !may_fail(id));
    let all: Vec<RecordedEvent> = ids.map(|id| event(&id)).collect();
    for some in all.chunks(5_000) {
        bus.publish(some).await.unwrap();
    }
    let others = events - events / 10;
    let handled = || seen.others.load(Ordering::SeqCst);
    let (began, mut passed) = (Instant::now(), Duration::ZERO);
    let consuming = bus.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    let patience = Duration::from_secs(60 + events as u64 / 100);
    let waiting = async {
        while handled() < others {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let time = match time {
                Clockwork::Stands => Duration::ZERO,
                Clockwork::Goes => began.elapsed(),
                Clockwork::Races => OUTAGE.mul_f64(handled() as f64 / others as f64),
            };
            clock.advance(time.saturating_sub(passed));
            passed = passed.max(time);
        }
    };
    let waited = tokio::time::timeout(patience, waiting).await;
    assert!(waited.is_ok(), "{} of {others} were handled", handled());
    let measured = Measured { took: began.elapsed(), failures: seen.failures.load(Ordering::SeqCst) };
    if load == Load::AndATenthFails && time != Clockwork::Races {
        let succeeded = seen.times.lock().unwrap().len();
        assert_eq!(succeeded, others, "none of those that fail has succeeded before the outage is over");
    }
    let waiting = async {
        while seen.times.lock().unwrap().len() < all.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            clock.advance(Duration::from_secs(30));
        }
    };
    let waited = tokio::time::timeout(patience, waiting).await;
    assert!(waited.is_ok(), "{} of {} were handled", seen.times.lock().unwrap().len(), all.len());
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert!(seen.times.lock().unwrap().values().all(|times| *times == 1), "each once");
    assert_eq!(bus.stats().messages_sent_to_dlq, 0);
    measured
}

async fn on_redis(config: RedisEventBusConfig, events: usize, load: Load, time: Clockwork) -> Measured {
    let clock = ManualClock::new();
    let config = RedisEventBusConfig { clock: SharedClock::new(clock.clone()), ..config };
    run(RedisEventBus::connect(config).await.unwrap(), &clock, events, load, time).await
}

async fn in_process(events: usize, load: Load, time: Clockwork) -> Measured {
    let clock = ManualClock::new();
    let bus = InMemoryEventBus::builder().capacity(events * 2).clock(SharedClock::new(clock.clone())).build();
    run(bus, &clock, events, load, time).await
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_handled_while_far_more_wait_than_a_consumer_has_in_flight() {
    for (partitions, time) in [(1, Clockwork::Stands), (4, Clockwork::Goes), (1, Clockwork::Races)] {
        let config = RedisEventBusConfig { max_in_hand: Some(50), batch_size: 50, partitions, ..config() };
        on_redis(config, 2_000, Load::AndATenthFails, time).await;
    }
}

/// Red unless the claims of all that waits are renewed, however many wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_longer_than_a_claim_lasts_is_not_taken_over() {
    const WAITING: usize = 1_100;
    let claim = Duration::from_secs(6);
    let clock = SharedClock::new(ManualClock::new()); // it stands still: nothing is tried again
    let config = RedisEventBusConfig { pending_idle_ms: 6_000, clock, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let fail = |bus: &RedisEventBus| {
        let handler = Subscriber::new(eventbus::Name::from_static("handler"), EventFilter::All, |_| {
            Box::pin(async { Err(HandlerError::from("away")) })
        });
        bus.subscribers().add(bus.default_group().clone(), handler);
    };
    fail(&bus);
    let all: Vec<_> = (0..WAITING).map(|number| event(&number.to_string())).collect();
    bus.publish(&all).await.unwrap();
    start(&bus).await;
    until("all wait", async || bus.stats().handler_errors == WAITING as u64).await;

    let second = another(&bus).await;
    fail(&second);
    start(&second).await;
    let began = Instant::now();
    until("their claims would have passed", async || {
        assert_eq!(second.stats().messages_recovered, 0, "after {:?}", began.elapsed());
        // it looks for them at least once in a sixth of the time
        began.elapsed() > claim + claim / 3
    })
    .await;
    assert_eq!(bus.stats().handler_errors, WAITING as u64, "they wait still");
    assert_eq!(second.stats().handler_errors, 0);
    assert_eq!(bus.health().await.pending_messages, WAITING as u64);
    second.stop_consuming().await;
    bus.stop_consuming().await;
}

/// `cargo test --release -p eventbus-redis --test waiting -- --ignored --nocapture`; `EVENTS` says how many, `ROUNDS` how
/// often, `ON` on which buses.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn a_tenth_that_fails_for_ten_minutes_leaves_the_others_their_throughput() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (events, rounds) = (number("EVENTS", 200_000), number("ROUNDS", 1));
    let on = std::env::var("ON").unwrap_or_default();
    for _ in 0..rounds {
        for (name, partitions) in [("Redis", 1), ("Redis, 4 partitions", 4), ("in-process", 0)] {
            if !name.starts_with(&on) {
                continue;
            }
            let measure = async |load, time| match partitions {
                0 => in_process(events, load, time).await,
                _ => on_redis(RedisEventBusConfig { partitions, ..config() }, events, load, time).await,
            };
            let others = (events - events / 10) as f64;
            let rate = |measured: &Measured| others / measured.took.as_secs_f64();
            for time in [Clockwork::Stands, Clockwork::Goes, Clockwork::Races] {
                let alone = rate(&measure(Load::NineTenths, time).await);
                let among = rate(&measure(Load::All, time).await);
                let failing = measure(Load::AndATenthFails, time).await;
                println!(
                    "{name}, the clock {time:?}: nine tenths of {events} events at {alone:.0}/s alone, {among:.0}/s among \
                     all, {:.0}/s where a tenth fails ({} times meanwhile): {:.2} of alone, {:.2} of among all",
                    rate(&failing),
                    failing.failures,
                    rate(&failing) / alone,
                    rate(&failing) / among
                );
            }
        }
    }
}
