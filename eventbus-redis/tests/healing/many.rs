//! Many events, and no fault at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::RedisEventBus;

use crate::common::{
    another, fresh_bus,
    seen::{event, start},
    until,
};

/// The longest time without a handled event.
const STANDSTILL: Duration = Duration::from_secs(60);

/// The number of times that each event was handled in a group.
struct Tally {
    group: Name,
    times: Vec<AtomicU8>,
    handled: AtomicUsize,
}

impl Tally {
    fn of(group: &'static str, events: usize) -> Arc<Self> {
        let times = std::iter::repeat_with(AtomicU8::default).take(events).collect();
        Arc::new(Self { group: Name::from_static(group), times, handled: AtomicUsize::default() })
    }

    fn join(self: &Arc<Self>, bus: &RedisEventBus) {
        let tally = Arc::clone(self);
        let count = Subscriber::new(Name::from_static("count"), EventFilter::All, move |delivery| {
            let id: Option<usize> = delivery.metadata().aggregate_id().as_str().parse().ok();
            if let Some(times) = id.and_then(|id| tally.times.get(id)) {
                times.fetch_add(1, Relaxed);
                tally.handled.fetch_add(1, Relaxed);
            }
            Box::pin(async { Ok(()) })
        });
        bus.add_subscriber(self.group.clone(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_groups_of_three_consumers_handle_each_of_10_000_events_once() {
    handle_each_once(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute without optimizing: cargo test --release -p eventbus-redis --test healing -- --ignored"]
async fn two_groups_of_three_consumers_handle_each_of_100_000_events_once() {
    handle_each_once(100_000).await;
}

async fn handle_each_once(events: usize) {
    let publisher = fresh_bus().await;
    let tallies = [Tally::of("first", events), Tally::of("second", events)];
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let bus = another(&publisher).await;
        for tally in &tallies {
            tally.join(&bus);
        }
        start(&bus).await;
        consumers.push(bus);
    }
    let began = Instant::now();
    let numbers: Vec<usize> = (0..events).collect();
    for numbers in numbers.chunks(1_000) {
        let page: Vec<_> = numbers.iter().map(|n| event(&n.to_string())).collect();
        publisher.publish(&page).await.unwrap();
    }
    let published = began.elapsed();
    let mut last = (0, Instant::now());
    loop {
        let handled = tallies.each_ref().map(|tally| tally.handled.load(Relaxed));
        if handled.iter().all(|handled| *handled >= events) {
            break;
        }
        let sum = handled.iter().sum::<usize>();
        if sum > last.0 {
            last = (sum, Instant::now());
        }
        assert!(last.1.elapsed() < STANDSTILL, "{handled:?} of {events} events are handled, and no more");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let handled = began.elapsed();
    for tally in &tallies {
        until("all are acknowledged", async || {
            publisher.progress(&tally.group).await.is_ok_and(|progress| progress.is_settled() && progress.pending == 0)
        })
        .await;
    }
    let rate = 2.0 * events as f64 / handled.as_secs_f64();
    eprintln!("{events} events: published within {published:?}, handled by two groups within {handled:?}: {rate:.0}/s");
    for tally in &tallies {
        let not_once = tally.times.iter().filter(|times| times.load(Relaxed) != 1).count();
        assert_eq!(not_once, 0, "group `{}`: {not_once} events were not handled once", tally.group);
    }
    let counted = |bus: &RedisEventBus| bus.stats().events_processed_success;
    assert_eq!(consumers.iter().map(counted).sum::<u64>(), 2 * events as u64);
    for bus in &consumers {
        bus.stop_consuming().await;
    }
}
