//! The server's count of deliveries: eventsource-py makes dead letters by it, so only attempts count.

use std::sync::{Arc, Mutex};

use crate::common::{
    config,
    seen::{command, event, start},
    until,
};
use eventbus::{
    Name,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

const IDLE_MS: u64 = 60;

/// A pending entry: its id, its consumer, its idle time in milliseconds, and its number of deliveries.
type Pending = (String, String, u64, u64);

async fn pending(bus: &RedisEventBus) -> Vec<Pending> {
    command(bus, "XPENDING", &[&bus.config().stream_name(), bus.default_group(), "-", "+", "10"]).await
}

/// For each name in turn, lets a consumer hang with the first event while it holds the second one of the same
/// aggregate; returns how often the server has delivered the second one.
async fn held_by(names: &[&str]) -> u64 {
    let config = RedisEventBusConfig { pending_idle_ms: IDLE_MS, concurrency: 2, ..config() };
    let publisher = RedisEventBus::connect(config.clone()).await.unwrap();
    publisher.publish(&[event("one"), event("one")]).await.unwrap();
    for name in names {
        let config = RedisEventBusConfig { consumer_name: Some((*name).to_owned()), ..config.clone() };
        let bus = RedisEventBus::connect(config).await.unwrap();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&begun);
        let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, move |delivery| {
            note.lock().unwrap().push(delivery.metadata().aggregate_id().to_string());
            Box::pin(std::future::pending())
        });
        bus.add_subscriber(bus.default_group().clone(), hangs);
        let consumer = start(&bus).await;
        until("one is begun", async || *begun.lock().unwrap() == ["one"]).await;
        until("it has both", async || pending(&bus).await.iter().all(|(_, on, ..)| on == name)).await;
        consumer.abort();
        drop(consumer.await);
        until("both may be taken over", async || pending(&bus).await.iter().all(|(_, _, idle, _)| *idle >= IDLE_MS))
            .await;
    }
    pending(&publisher).await[1].3
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_taken_over_without_being_tried_is_not_counted_again() {
    assert_eq!(held_by(&["a", "b", "c", "d"]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_found_again_after_a_restart_is_not_counted_again() {
    assert_eq!(held_by(&["a", "a", "a", "a"]).await, 1);
}
