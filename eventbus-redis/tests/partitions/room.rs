//! How much of its partitions a consumer reads ahead.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    Name, NewEvent, RecordedEvent, Version,
    event::EventFilter,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tokio::sync::Semaphore;

use crate::{
    common::{
        actor::{connect, never},
        config_on,
        cost::counters,
        seen::{command, order, start},
        until,
    },
    process::until_finished,
};

const PARTITIONS: u32 = 16;
const EVENT_BYTES: usize = 64 << 10;
const EVENTS_PER_PARTITION: u64 = 40;
/// As much as may be in flight, as much buffered, and an entry of each partition.
const HELD_BYTES_MAX: usize = 3 << 20;

fn stream(bus: &RedisEventBus, partition: u32) -> String {
    format!("{}:{partition}", bus.config().stream_name())
}

/// Publishes events of two aggregates in each partition; returns the aggregates.
async fn publish_large(bus: &RedisEventBus) -> Vec<String> {
    let in_partition = |partition| {
        let ids = (0..).map(|id: u32| id.to_string());
        ids.filter(move |id| bus.config().stream_of(&order(id)) == stream(bus, partition)).take(2)
    };
    let aggregates: Vec<_> = (0..PARTITIONS).flat_map(in_partition).collect();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(EVENT_BYTES));
    for version in 1..=EVENTS_PER_PARTITION / 2 {
        let large = |id: &String| {
            let event = NewEvent::new(Name::from_static("OrderCreated"), 1, payload.clone());
            event.recorded_as(order(id), Version::new(version), None)
        };
        bus.publish(&aggregates.iter().map(large).collect::<Vec<RecordedEvent>>()).await.unwrap();
    }
    aggregates
}

async fn pending(bus: &RedisEventBus) -> usize {
    usize::try_from(bus.progress(bus.default_group()).await.unwrap().pending).unwrap()
}

/// A handler that waits until the test releases it, and records the versions of each aggregate.
#[derive(Clone)]
struct Held {
    gate: Arc<Semaphore>,
    handled: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
}

impl Held {
    fn join(bus: &RedisEventBus) -> Self {
        let held = Self { gate: Arc::new(Semaphore::new(0)), handled: Arc::default() };
        let handler = held.clone();
        let subscriber = Subscriber::new(Name::from_static("held"), EventFilter::All, move |delivery| {
            let Self { gate, handled } = handler.clone();
            let (id, version) = (delivery.metadata().aggregate_id().to_string(), delivery.metadata().version().get());
            Box::pin(async move {
                gate.acquire().await?.forget();
                handled.lock().unwrap().entry(id).or_default().push(version);
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), subscriber);
        held
    }

    /// Releases the handler; fails unless it handles each event once, those of an aggregate in order.
    async fn handles_all(&self, bus: &RedisEventBus, aggregates: Vec<String>) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
        until_finished(bus, Duration::from_secs(60)).await;
        let all = (1..=EVENTS_PER_PARTITION / 2).collect::<Vec<_>>();
        let expected: BTreeMap<_, _> = aggregates.into_iter().map(|id| (id, all.clone())).collect();
        assert_eq!(*self.handled.lock().unwrap(), expected);
    }
}

/// Fails if each partition is read as if it were the only one, or if the bytes of a read have no limit.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_share_the_limits_of_their_consumer() {
    for are_pending in [false, true] {
        let server = eventbus_test::private_redis();
        let bus = connect(&RedisEventBusConfig {
            partitions: PARTITIONS,
            max_in_flight_bytes: 1 << 20,
            concurrency: 8,
            ..config_on(server.url())
        })
        .await;
        let aggregates = publish_large(&bus).await;
        if are_pending {
            for partition in 0..PARTITIONS {
                let (stream, group) = (stream(&bus, partition), bus.default_group().to_string());
                let read = ["GROUP", &group, "owner", "COUNT", "1000", "STREAMS", &stream, ">"];
                let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
            }
        }
        let held = Held::join(&bus);
        let mut admin = eventbus_test::internal::redis_connection(server.url()).await;
        let before = counters(&mut admin).await.bytes_sent;
        start(&bus).await;
        let sent = async |admin: &mut redis::aio::MultiplexedConnection| counters(admin).await.bytes_sent - before;
        let has_read = async || sent(&mut admin.clone()).await > (1 << 20) / 2;
        until("it has read", has_read).await;
        never("it reads beyond its limits", Duration::from_millis(500), async || {
            let too_many = !are_pending && pending(&bus).await * EVENT_BYTES > HELD_BYTES_MAX;
            too_many || sent(&mut admin.clone()).await > HELD_BYTES_MAX as u64
        })
        .await;
        println!("pending {are_pending}: {} bytes sent", sent(&mut admin.clone()).await);
        held.handles_all(&bus, aggregates).await;
        bus.stop_consuming().await;
    }
}
