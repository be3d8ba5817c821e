//! Deliveries that wait for a retry, far more than a consumer has in flight: the rest flows, and order holds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which show what was measured")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{
    another, config, config_on,
    seen::{command, event, start},
    until,
};
use eventbus::{
    HandlerError, InMemoryEventBus, Name, RecordedEvent,
    clock::{Clock, SharedClock},
    event::EventFilter,
    port::{EventBus, Subscriber},
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// The time, by the clock of the bus, in which events fail.
const OUTAGE: Duration = Duration::from_secs(600);

/// The clock of the bus while the events that do not fail are handled; the rest of the outage passes afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clockwork {
    /// It stands still: no event is retried.
    Stands,
    /// It is as fast as the machine's.
    Goes,
    /// The whole outage passes meanwhile, with all retries due in it.
    Races,
}

/// The events that a bus gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// The nine tenths that never fail.
    NineTenths,
    /// All events, and none fails.
    All,
    /// All events, and a tenth fails until the outage is over.
    AndATenthFails,
}

/// The events that a bus gets, and their timing.
#[derive(Debug, Clone, Copy)]
struct Given {
    events: usize,
    load: Load,
    time: Clockwork,
    /// The shortest time of a handler.
    takes: Duration,
}

/// The measured buses.
const BUSES: [&str; 2] = ["Redis", "in-process"];
/// Number of concurrent handlers that take time.
const AT_ONCE: usize = 16;

/// The results of a measurement.
struct Measured {
    /// The time of the nine tenths.
    took: Duration,
    /// The number of failures meanwhile.
    failures: usize,
}

/// The records of a handler.
#[derive(Default)]
struct Seen {
    /// Number of handled events that never fail.
    others: AtomicUsize,
    failures: AtomicUsize,
    /// Number of successes of each event.
    times: Mutex<HashMap<String, u32>>,
}

/// Returns `true` if the event is in the tenth that may fail.
fn may_fail(aggregate: &str) -> bool {
    aggregate.ends_with('7')
}

fn handler(bus: &impl EventBus, clock: &ManualClock, load: Load, takes: Duration) -> Arc<Seen> {
    let (seen, clock) = (Arc::new(Seen::default()), clock.clone());
    let (noted, ends) = (Arc::clone(&seen), clock.now() + OUTAGE);
    let handle = Subscriber::new(Name::from_static("handler"), EventFilter::All, move |delivery| {
        let aggregate = delivery.metadata().aggregate_id().to_string();
        let may_fail = may_fail(&aggregate);
        let fails = may_fail && load == Load::AndATenthFails && clock.now() < ends;
        let noted = Arc::clone(&noted);
        Box::pin(async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            if fails {
                noted.failures.fetch_add(1, Ordering::SeqCst);
                return Err(HandlerError::from("away"));
            }
            *noted.times.lock().unwrap().entry(aggregate).or_default() += 1;
            noted.others.fetch_add(usize::from(!may_fail), Ordering::SeqCst);
            Ok(())
        })
    });
    bus.add_subscriber(bus.default_group().clone(), handle);
    seen
}

/// Has the events handled, each of an aggregate of its own, and checks that each was handled once, the failing ones
/// after the outage.
async fn run<B: EventBus + Clone>(bus: B, clock: &ManualClock, given: Given) -> Measured {
    let Given { events, load, time, takes } = given;
    let seen = handler(&bus, clock, load, takes);
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

async fn on_redis(config: RedisEventBusConfig, given: Given) -> Measured {
    let clock = ManualClock::new();
    let config = RedisEventBusConfig { clock: SharedClock::new(clock.clone()), ..config };
    run(RedisEventBus::connect(config).await.unwrap(), &clock, given).await
}

async fn in_process(concurrency: usize, given: Given) -> Measured {
    let clock = ManualClock::new();
    let builder = InMemoryEventBus::builder().capacity(given.events * 2).concurrency(concurrency);
    run(builder.clock(SharedClock::new(clock.clone())).build(), &clock, given).await
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_handled_while_far_more_wait_than_a_consumer_has_in_flight() {
    for time in [Clockwork::Stands, Clockwork::Races] {
        let config = RedisEventBusConfig { max_in_flight: Some(50), batch_size: 50, ..config() };
        let given = Given { events: 2_000, load: Load::AndATenthFails, time, takes: Duration::ZERO };
        on_redis(config, given).await;
    }
}

/// Fails unless the bus renews the claims of all waiting entries, whatever their number.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_longer_than_a_claim_lasts_is_not_taken_over() {
    const WAITING: usize = 1_100;
    let claim = Duration::from_secs(6);
    let clock = SharedClock::new(ManualClock::new()); // it stands still: no event is retried
    let config = RedisEventBusConfig { pending_idle_ms: 6_000, clock, ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let fail = |bus: &RedisEventBus| {
        let handler = Subscriber::new(Name::from_static("handler"), EventFilter::All, |_| {
            Box::pin(async { Err(HandlerError::from("away")) })
        });
        bus.add_subscriber(bus.default_group().clone(), handler);
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
        // the second bus looks for expired claims at least once in a sixth of that time
        began.elapsed() > claim + claim / 3
    })
    .await;
    assert_eq!(bus.stats().handler_errors, WAITING as u64, "they wait still");
    assert_eq!(second.stats().handler_errors, 0);
    assert_eq!(bus.health().await.pending_messages, WAITING as u64);
    second.stop_consuming().await;
    bus.stop_consuming().await;
}

/// Returns the median.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// `cargo test --release -p eventbus-redis --test bus waiting -- --ignored --nocapture`; `EVENTS` is the number of events,
/// `ROUNDS` of rounds, `ON` the buses, `MS` the handlers' time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn a_tenth_that_fails_for_ten_minutes_leaves_the_others_their_throughput() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (events, rounds) = (number("EVENTS", 200_000), number("ROUNDS", 3));
    let takes = std::env::var("MS").map_or(vec![0, 1], |ms| vec![ms.parse().unwrap()]);
    let on = std::env::var("ON").unwrap_or_default();
    for (name, ms) in BUSES.iter().flat_map(|bus| takes.iter().map(move |ms| (*bus, *ms))) {
        if !name.starts_with(&on) {
            continue;
        }
        let takes = Duration::from_millis(ms);
        let concurrency = if ms == 0 { 1 } else { AT_ONCE };
        let measure = async |load, time| {
            let given = Given { events, load, time, takes };
            match name {
                "in-process" => in_process(concurrency, given).await,
                _ => on_redis(RedisEventBusConfig { concurrency, ..config() }, given).await,
            }
        };
        let others = (events - events / 10) as f64;
        let rate = |measured: &Measured| others / measured.took.as_secs_f64();
        for time in [Clockwork::Stands, Clockwork::Goes, Clockwork::Races] {
            let (mut of_alone, mut of_all) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let alone = rate(&measure(Load::NineTenths, time).await);
                let among = rate(&measure(Load::All, time).await);
                let failing = measure(Load::AndATenthFails, time).await;
                println!(
                    "{name}, {ms} ms each, the clock {time:?}: nine tenths of {events} events at {alone:.0}/s alone, \
                     {among:.0}/s among all, {:.0}/s where a tenth fails ({} times meanwhile)",
                    rate(&failing),
                    failing.failures,
                );
                of_alone.push(rate(&failing) / alone);
                of_all.push(rate(&failing) / among);
            }
            println!("= {:.2} of among all, {:.2} of alone", median(of_all), median(of_alone));
        }
    }
}

/// A handler of which all but the last event wait for a retry; then the connections of the bus break. Fails if the bus asks
/// for each entry that is pending on it alone, as it has room for one: new events would wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_broken_connection_waiting_entries_are_listed_by_the_page() {
    const WAITING: usize = 2_000;
    let server = eventbus_test::private_redis();
    let hour = 3_600_000;
    let config = RedisEventBusConfig {
        concurrency: 1,
        max_in_flight: Some(1),
        retry_delay_ms: hour,
        retry_max_delay_ms: hour,
        // no claim is renewed meanwhile: that asks for each entry
        pending_idle_ms: hour,
        ..config_on(server.url())
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let (failed, handled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (fails, handles) = (Arc::clone(&failed), Arc::clone(&handled));
    let subscriber = Subscriber::new(Name::from_static("fails"), EventFilter::All, move |delivery| {
        let is_last = delivery.metadata().aggregate_id().as_str() == "last";
        if is_last { &handles } else { &fails }.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { if is_last { Ok(()) } else { Err(HandlerError::from("not yet")) } })
    });
    bus.add_subscriber(bus.default_group().clone(), subscriber);
    start(&bus).await;
    let waiting: Vec<_> = (0..WAITING).map(|number| event(&format!("w{number}"))).collect();
    bus.publish(&waiting).await.unwrap();
    until("all wait for a retry", async || failed.load(Ordering::SeqCst) == WAITING).await;

    let retries = async || {
        let of_bus = format!("*{}*retry*", bus.config().stream_prefix);
        let keys: Vec<String> = command(&bus, "KEYS", &[&of_bus]).await;
        let mut saved = 0;
        for key in keys {
            saved += command::<usize>(&bus, "HLEN", &[&key]).await;
        }
        saved
    };
    until("all attempts are saved", async || retries().await == WAITING).await;
    let listings = async || {
        let stats: redis::InfoDict = command(&bus, "INFO", &["commandstats"]).await;
        let calls: String = stats.get("cmdstat_xpending").unwrap_or_default();
        calls.split([',', '=']).nth(1).map_or(0, |calls| calls.parse::<usize>().unwrap())
    };
    let before = listings().await;
    let _: i64 = command(&bus, "CLIENT", &["KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("the last is published", async || bus.publish(&[event("last")]).await.is_ok()).await;
    until("and handled", async || handled.load(Ordering::SeqCst) >= 1).await;
    let listed = listings().await - before;
    assert!(listed < WAITING / 4, "{listed} listings");
    assert_eq!(failed.load(Ordering::SeqCst), WAITING, "none was handled again");
    bus.stop_consuming().await;
}
