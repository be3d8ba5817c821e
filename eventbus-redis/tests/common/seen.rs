//! A handler that records its deliveries, and calls to a bus in tests of faults.

use std::sync::{Arc, Mutex};

use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    event::EventFilter,
    port::{EventBus, Subscriber, Subscription},
};
use eventbus_redis::RedisEventBus;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::until;

/// A handler that records the ids of the aggregates delivered to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn join(&self, bus: &RedisEventBus) {
        self.join_as(bus, bus.default_group().clone());
    }

    pub(crate) fn join_as(&self, bus: &RedisEventBus, group: Name) {
        let seen = self.clone();
        let note = Subscriber::new(Name::from_static("note"), EventFilter::All, move |delivery| {
            let id = delivery.metadata().aggregate_id().to_string();
            seen.0.lock().unwrap().push(id);
            Box::pin(async { Ok(()) })
        });
        bus.add_subscriber(group, note);
    }
}

/// A handler that waits until the test releases it.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    pub(crate) fn join(&self, bus: &RedisEventBus) -> Subscription {
        let gate = Arc::clone(&self.0);
        let wait = Subscriber::new(Name::from_static("gate"), EventFilter::All, move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await?.forget();
                Ok(())
            })
        });
        bus.add_subscriber(bus.default_group().clone(), wait)
    }

    /// Releases all deliveries, future ones too.
    pub(crate) fn open(&self) {
        self.0.add_permits(1_000);
    }
}

pub(crate) fn event(id: &str) -> RecordedEvent {
    let stream = StreamId::parse("Order", id).unwrap();
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
    event.recorded_as(stream, Version::FIRST, None)
}

pub(crate) async fn start(bus: &RedisEventBus) -> JoinHandle<()> {
    let consuming = bus.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    until("the bus consumes", async || bus.is_consuming()).await;
    consumer
}

/// Publishes, and repeats until it succeeds.
pub(crate) async fn publish(bus: &RedisEventBus, id: &str) {
    until("publishing succeeds", async || bus.publish(&[event(id)]).await.is_ok()).await;
}

/// Waits until the group is settled; returns the number of unacknowledged entries.
pub(crate) async fn settled(bus: &RedisEventBus) -> u64 {
    let group = bus.default_group();
    until("the group is settled", async || bus.progress(group).await.is_ok_and(|progress| progress.is_settled())).await;
    bus.progress(group).await.unwrap().pending
}

pub(crate) async fn command<T: redis::FromRedisValue>(bus: &RedisEventBus, name: &str, arguments: &[&str]) -> T {
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    let mut command = redis::cmd(name);
    command.arg(arguments);
    match command.query_async(&mut connection).await {
        // no consumer has made the group yet
        Err(error) if error.code() == Some("NOGROUP") => {
            make_group(bus).await;
            command.query_async(&mut connection).await.unwrap()
        }
        answer => answer.unwrap(),
    }
}

/// Makes the default group, as its first consumer would.
pub(crate) async fn make_group(bus: &RedisEventBus) {
    let mut connection = eventbus_test::internal::redis_connection(&bus.config().redis_url).await;
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(bus.config().stream_name()).arg(bus.default_group().as_str()).arg("0").arg("MKSTREAM");
    match create.query_async::<()>(&mut connection).await {
        // its first consumer was faster
        Err(error) if error.code() == Some("BUSYGROUP") => {}
        made => made.unwrap(),
    }
}

/// The number of calls of a command on the server, scripts included.
pub(crate) async fn calls(bus: &RedisEventBus, name: &str) -> u64 {
    let stats: String = command(bus, "INFO", &["commandstats"]).await;
    let of_command = format!("cmdstat_{name}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&of_command)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// The stream of an order of no tenant.
pub(crate) fn order(id: &str) -> StreamId {
    StreamId::parse("Order", id).unwrap()
}
