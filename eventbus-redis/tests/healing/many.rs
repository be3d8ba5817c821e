//! Many events, and no fault at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventbus::{
    EventFilter, Name,
    port::{EventBus, Subscriber},
};
use eventbus_redis::RedisEventBus;

use crate::common::{
    another, fresh_bus,
    seen::{event, start},
    until,
};

const EVENTS: usize = 100_000;

/// How often each event was handled in a group.
struct Tally {
    group: Name,
    times: Vec<AtomicU8>,
    handled: AtomicUsize,
}

impl Tally {
    fn of(group: &'static str) -> Arc<Self> {
        let times = std::iter::repeat_with(AtomicU8::default).take(EVENTS).collect();
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
        bus.subscribers().add(self.group.clone(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_groups_of_three_consumers_handle_each_of_100_000_events_once() {
    let publisher = fresh_bus().await;
    let tallies = [Tally::of("first"), Tally::of("second")];
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
    let numbers: Vec<usize> = (0..EVENTS).collect();
    for numbers in numbers.chunks(1_000) {
        let events: Vec<_> = numbers.iter().map(|n| event(&n.to_string())).collect();
        publisher.publish(&events).await.unwrap();
    }
    let published = began.elapsed();
    let waiting = async {
        while tallies.iter().any(|tally| tally.handled.load(Relaxed) < EVENTS) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(100), waiting).await.unwrap();
    let handled = began.elapsed();
    for tally in &tallies {
        until("all are acknowledged", async || {
            publisher.progress(&tally.group).await.is_ok_and(|progress| progress.is_settled() && progress.pending == 0)
        })
        .await;
    }
    let rate = 2.0 * EVENTS as f64 / handled.as_secs_f64();
    eprintln!("{EVENTS} events: published within {published:?}, handled by two groups within {handled:?}: {rate:.0}/s");
    for tally in &tallies {
        let not_once = tally.times.iter().filter(|times| times.load(Relaxed) != 1).count();
        assert_eq!(not_once, 0, "group `{}`: {not_once} events were not handled once", tally.group);
    }
    let counted = |bus: &RedisEventBus| bus.stats().events_processed_success;
    assert_eq!(consumers.iter().map(counted).sum::<u64>(), 2 * EVENTS as u64);
    for bus in &consumers {
        bus.stop_consuming().await;
    }
}
