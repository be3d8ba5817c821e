//! Faults under load.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tokio::{sync::Mutex as Lock, task::JoinHandle};

use crate::common::{
    config_on,
    seen::{Seen, event, settled, start},
    until,
};

/// Publishes and consumes continuously.
struct Load {
    bus: RedisEventBus,
    seen: Seen,
    /// The ids whose publishing succeeded since the test last cleared them.
    published: Arc<Mutex<Vec<String>>>,
    /// Held while publishing, so that the test clears no ids meanwhile.
    publishing: Arc<Lock<()>>,
    ends: Arc<AtomicBool>,
    publisher: JoinHandle<usize>,
}

impl Load {
    async fn on(url: &str) -> Self {
        let config = RedisEventBusConfig { concurrency: 4, ..config_on(url) };
        let bus = RedisEventBus::connect(config).await.unwrap();
        let seen = Seen::default();
        seen.join(&bus);
        start(&bus).await;
        let (published, publishing, ends) = (Arc::default(), Arc::default(), Arc::default());
        let publisher = publish(bus.clone(), Arc::clone(&published), Arc::clone(&publishing), Arc::clone(&ends));
        let publisher = tokio::spawn(publisher);
        Self { bus, seen, published, publishing, ends, publisher }
    }

    /// Returns after `count` more events were handled, with the time that the first of them took.
    async fn goes_on(&self, count: usize) -> Duration {
        let (before, began) = (self.seen.all().len(), Instant::now());
        until("the first is handled", async || self.seen.all().len() > before).await;
        let first = began.elapsed();
        until("others are handled", async || self.seen.all().len() >= before + count).await;
        first
    }

    /// Ends the load; waits until every id in `published` is handled. Returns the number of repeats.
    async fn end(self, what: &str, faults: usize, slowest: Duration) -> usize {
        self.ends.store(true, Relaxed);
        let total = self.publisher.await.unwrap();
        let published = self.published.lock().unwrap().clone();
        until("all are handled", async || {
            let seen: std::collections::HashSet<_> = self.seen.all().into_iter().collect();
            published.iter().all(|id| seen.contains(id))
        })
        .await;
        assert_eq!(settled(&self.bus).await, 0);
        let seen = self.seen.all();
        let mut times = HashMap::<_, usize>::new();
        for id in &seen {
            *times.entry(id).or_default() += 1;
        }
        let (handled, repeats) = (times.len(), seen.len() - times.len());
        eprintln!(
            "{what}: {faults} times, {total} published, {handled} handled, {repeats} repeats, slowest recovery {slowest:?}, \
             {} reconnections",
            self.bus.stats().reconnections
        );
        self.bus.stop_consuming().await;
        repeats
    }
}

/// Publishes until `ends` is set; returns the number of published events.
async fn publish(
    bus: RedisEventBus,
    published: Arc<Mutex<Vec<String>>>,
    publishing: Arc<Lock<()>>,
    ends: Arc<AtomicBool>,
) -> usize {
    let (mut next, mut total) = (0_usize, 0);
    while !ends.load(Relaxed) {
        let ids: Vec<_> = (next..next + 10).map(|n| n.to_string()).collect();
        next += 10;
        let events: Vec<_> = ids.iter().map(|id| event(id)).collect();
        let _publishing = publishing.lock().await;
        // an event whose publishing failed may be lost
        if bus.publish(&events).await.is_ok() {
            total += ids.len();
            published.lock().unwrap().extend(ids);
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_again_and_again_loses_nothing_that_was_published() {
    let mut server = eventbus_test::private_redis_with(&["--appendfsync", "always"]);
    let load = Load::on(server.url()).await;
    let mut slowest = Duration::ZERO;
    for round in 0..10_u64 {
        load.goes_on(200).await;
        server.stop();
        tokio::time::sleep(Duration::from_millis(100 * (round % 4))).await;
        server.start();
        slowest = slowest.max(load.goes_on(100).await);
    }
    assert_eq!(load.end("killed", 10, slowest).await, 0, "the consumer lives and knows what it has handled");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_after_everything_was_deleted_is_handled() {
    let server = eventbus_test::private_redis();
    let load = Load::on(server.url()).await;
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        load.goes_on(200).await;
        {
            let _nothing_is_under_way = load.publishing.lock().await;
            let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
            load.published.lock().unwrap().clear();
        }
        slowest = slowest.max(load.goes_on(100).await);
    }
    load.end("deleted", 10, slowest).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
