//! A handler that the test controls, and changes that tests of recovery and retries make behind the bus's back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventbus::{
    HandlerError, Name,
    event::{EventDescriptor, EventFilter, Source},
    handler::{Delivery, HandlerOptions},
    port::{EventBus, Subscriber, Subscription},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::Value;
use tokio::sync::Semaphore;

use super::{
    config,
    seen::{command, event},
    until,
};

/// The action of a handler.
pub(crate) enum Act {
    Succeed,
    Fail(HandlerError),
    Panic,
    /// Wait for a permit, then succeed.
    Wait,
    /// Wait for a permit, then fail.
    WaitAndFail,
}

/// Chooses the action of a handler.
type Told = dyn Fn(&str, u32) -> Act + Send + Sync;

/// One run of a handler.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The id of the aggregate.
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) began: Instant,
}

/// A handler that the test controls, and that records its runs.
#[derive(Clone)]
pub(crate) struct Actor {
    runs: Arc<Mutex<Vec<Run>>>,
    done: Arc<Mutex<Vec<String>>>,
    cancelled: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    told: Arc<Told>,
}

/// Counts a run that is dropped before its end.
struct Unfinished(Option<Arc<AtomicUsize>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Actor {
    /// Chooses the action by the id of the aggregate and the number of the attempt.
    pub(crate) fn new(told: impl Fn(&str, u32) -> Act + Send + Sync + 'static) -> Self {
        let (runs, done, cancelled) = (Arc::default(), Arc::default(), Arc::default());
        Self { runs, done, cancelled, gate: Arc::new(Semaphore::new(0)), told: Arc::new(told) }
    }

    pub(crate) fn willing() -> Self {
        Self::new(|_, _| Act::Succeed)
    }

    pub(crate) fn failing() -> Self {
        Self::new(|_, _| Act::Fail("told to".into()))
    }

    /// Waits until [`let_go`](Self::let_go) each time.
    pub(crate) fn waiting() -> Self {
        Self::new(|_, _| Act::Wait)
    }

    pub(crate) fn let_go(&self, runs: usize) {
        self.gate.add_permits(runs);
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.lock().unwrap().clone()
    }

    pub(crate) fn begun(&self) -> Vec<String> {
        self.runs().into_iter().map(|run| run.id).collect()
    }

    pub(crate) fn runs_of(&self, id: &str) -> usize {
        self.runs().iter().filter(|run| run.id == id).count()
    }

    pub(crate) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    pub(crate) fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Handles all events of the bus's own group.
    pub(crate) fn join(&self, bus: &RedisEventBus) -> Subscription {
        self.join_as(bus, "act", EventFilter::All, HandlerOptions::default())
    }

    pub(crate) fn join_as(
        &self,
        bus: &RedisEventBus,
        name: &'static str,
        events: EventFilter,
        options: HandlerOptions,
    ) -> Subscription {
        self.join_group(bus, bus.default_group(), name, events, options)
    }

    pub(crate) fn join_group(
        &self,
        bus: &RedisEventBus,
        group: &Name,
        name: &'static str,
        events: EventFilter,
        options: HandlerOptions,
    ) -> Subscription {
        let actor = self.clone();
        let subscriber = Subscriber::new(Name::from_static(name), events, move |delivery| {
            let actor = actor.clone();
            Box::pin(async move { actor.handle(delivery).await })
        });
        bus.add_subscriber(group.clone(), subscriber.with_options(options))
    }

    async fn handle(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let id = delivery.metadata().aggregate_id().to_string();
        let attempt = delivery.attempt();
        self.runs.lock().unwrap().push(Run { id: id.clone(), attempt, began: Instant::now() });
        let mut unfinished = Unfinished(Some(Arc::clone(&self.cancelled)));
        let result = match (self.told)(&id, attempt) {
            Act::Succeed => Ok(()),
            Act::Fail(error) => Err(error),
            Act::Panic => {
                unfinished.0 = None;
                panic!("told to panic")
            }
            Act::Wait => self.gate.acquire().await.map(|permit| permit.forget()).map_err(Into::into),
            Act::WaitAndFail => {
                self.gate.acquire().await?.forget();
                Err("told to, late".into())
            }
        };
        unfinished.0 = None;
        if result.is_ok() {
            self.done.lock().unwrap().push(id);
        }
        result
    }
}

/// Names of event types.
pub(crate) const CREATED: &str = "OrderCreated";
pub(crate) const SHIPPED: &str = "OrderShipped";

const fn described(event_type: &'static str) -> EventDescriptor {
    EventDescriptor::new(event_type, "Order", 1, event_type, Source::new(file!(), line!(), module_path!()))
}

pub(crate) const ONLY_CREATED: EventFilter = EventFilter::Only(&[described(CREATED)]);
pub(crate) const ONLY_SHIPPED: EventFilter = EventFilter::Only(&[described(SHIPPED)]);
pub(crate) const BOTH: EventFilter = EventFilter::Only(&[described(CREATED), described(SHIPPED)]);

/// Short times, and a name that is the same after a restart.
pub(crate) fn quick() -> RedisEventBusConfig {
    RedisEventBusConfig {
        consumer_name: Some("stable".into()),
        block_ms: 50,
        pending_idle_ms: 600,
        retry_delay_ms: 20,
        retry_max_delay_ms: 100,
        ..config()
    }
}

/// Connects as a new process with a configuration.
pub(crate) async fn connect(config: &RedisEventBusConfig) -> RedisEventBus {
    RedisEventBus::connect(config.clone()).await.unwrap()
}

/// Connects as a new process of the same group, with a name of its own.
pub(crate) async fn named(bus: &RedisEventBus, name: &str) -> RedisEventBus {
    connect(&RedisEventBusConfig { consumer_name: Some(name.into()), ..bus.config().clone() }).await
}

/// Publishes events of aggregates with these ids; returns the ids of the entries.
pub(crate) async fn publish_all(bus: &RedisEventBus, ids: &[&str]) -> Vec<String> {
    let events: Vec<_> = ids.iter().map(|id| event(id)).collect();
    bus.publish(&events).await.unwrap().iter().map(ToString::to_string).collect()
}

/// `count` ids.
pub(crate) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number:05}")).collect()
}

pub(crate) async fn publish_numbered(bus: &RedisEventBus, count: usize) -> Vec<String> {
    let ids = numbered(count);
    publish_all(bus, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Reads new entries as a consumer of this name, and leaves them pending on it.
pub(crate) async fn read_as(bus: &RedisEventBus, consumer: &str, count: usize) {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let read = ["GROUP", &group, consumer, "COUNT", &count.to_string(), "STREAMS", &stream, ">"];
    let _: Value = command(bus, "XREADGROUP", &read).await;
}

/// Claims an entry for a consumer of this name.
pub(crate) async fn give(bus: &RedisEventBus, consumer: &str, entry: &str) {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let given: Vec<String> = command(bus, "XCLAIM", &[&stream, &group, consumer, "0", entry, "JUSTID"]).await;
    assert_eq!(given, [entry]);
}

/// The pending entries, each with its consumer.
pub(crate) async fn pending(bus: &RedisEventBus) -> Vec<(String, String)> {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let rows: Vec<(String, String, u64, u64)> = command(bus, "XPENDING", &[&stream, &group, "-", "+", "100000"]).await;
    rows.into_iter().map(|(id, consumer, ..)| (id, consumer)).collect()
}

/// The names of the group's consumers, sorted.
pub(crate) async fn consumers(bus: &RedisEventBus) -> Vec<String> {
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let rows: Vec<std::collections::HashMap<String, Value>> =
        command(bus, "XINFO", &["CONSUMERS", &stream, &group]).await;
    let mut names: Vec<String> =
        rows.into_iter().map(|mut row| redis::from_redis_value(row.remove("name").unwrap()).unwrap()).collect();
    names.sort();
    names
}

/// The key of the notes about entries.
pub(crate) fn retry_key(bus: &RedisEventBus) -> String {
    format!("{{{}}}:retry:{}", bus.config().stream_name(), bus.default_group())
}

pub(crate) fn members_key(bus: &RedisEventBus) -> String {
    format!("{{{}}}:members:{}", bus.config().stream_name(), bus.default_group())
}

/// The notes about entries, by entry id.
pub(crate) async fn notes(bus: &RedisEventBus) -> std::collections::BTreeMap<String, String> {
    command(bus, "HGETALL", &[&retry_key(bus)]).await
}

pub(crate) async fn dead_letter_count(bus: &RedisEventBus) -> u64 {
    command(bus, "XLEN", &[&bus.config().dlq_stream_name()]).await
}

/// Kills a consumer as far as a process can do that to itself: the consumer writes no more.
pub(crate) async fn kill(consumer: tokio::task::JoinHandle<()>) {
    consumer.abort();
    drop(consumer.await);
}

/// Waits until no entry is unread or pending.
pub(crate) async fn until_finished(bus: &RedisEventBus) {
    let group = bus.default_group();
    until("the group has finished everything", async || {
        bus.progress(group).await.is_ok_and(|progress| progress.unread + progress.pending == 0)
    })
    .await;
}

/// Checks for some time that the condition stays false, where only its absence can be seen.
pub(crate) async fn never(what: &str, within: Duration, mut happens: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + within;
    while Instant::now() < end {
        assert!(!happens().await, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
