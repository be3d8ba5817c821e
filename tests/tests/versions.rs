//! Stored events of every version and name of a type, through everything that decodes events, on every store and bus.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    EventSet, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Name, Never, NewEvent, Position, SettleError,
    StreamId,
    event::{FieldError, Fields},
    port::{EventBus, EventStore},
    prelude::*,
    store::FeedFilter,
};
use eventbus_file::{FileQueue, FileQueueConfig, RedisCoordination};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use futures_util::TryStreamExt as _;
use workspace_tests::stores;

/// A deposit, as every stored one below is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account, version = 4, was("MoneyPaidIn"), upcast(DepositedV1, _, add_currency))]
struct Deposited {
    cents: i64,
    currency: String,
}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedV1 {
    euros: f64,
}

impl TryFrom<DepositedV1> for Fields {
    type Error = FieldError;

    fn try_from(old: DepositedV1) -> Result<Self, FieldError> {
        let mut fields = Self::new();
        fields.insert("cents", (old.euros * 100.0).round() as i64)?;
        Ok(fields)
    }
}

fn add_currency(fields: &mut Fields) -> Result<(), FieldError> {
    fields.insert("currency", "EUR")
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited), retired("AccountViewed"))]
struct Account {
    deposits: Vec<Deposited>,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Deposited(event): &AccountEvent) {
        self.deposits.push(event.clone());
    }
}

/// One stored event of each version and name, in the order in which releases wrote them, with a retired one among them.
const GOLDEN: [(&str, u32, &str); 6] = [
    ("MoneyPaidIn", 1, r#"{"euros":1.5}"#),
    ("AccountViewed", 1, "{}"),
    ("MoneyPaidIn", 2, r#"{"cents":150}"#),
    ("Deposited", 2, r#"{"cents":150}"#),
    ("Deposited", 3, r#"{"cents":150}"#),
    ("Deposited", 4, r#"{"cents":150,"currency":"EUR"}"#),
];

fn golden() -> Vec<NewEvent> {
    GOLDEN.iter().map(|&(name, version, json)| NewEvent::new(Name::new("type", name).unwrap(), version, json)).collect()
}

fn todays() -> Vec<Deposited> {
    vec![Deposited { cents: 150, currency: "EUR".into() }; 5]
}

/// The deposits that a handler got, or a projection, by the version in the stream.
type Seen = Arc<Mutex<BTreeMap<u64, Deposited>>>;

#[derive(Clone, Default)]
struct Handled {
    seen: Seen,
    is_mended: Arc<AtomicBool>,
}

#[handler(manual, retries = 0)]
async fn count(event: &Deposited, meta: &Metadata, State(handled): State<Handled>) -> Result<(), HandlerError> {
    if !handled.is_mended.load(Ordering::SeqCst) {
        return Err("not mended yet".into());
    }
    handled.seen.lock().map_err(|_| "poisoned")?.insert(meta.version().get(), event.clone());
    Ok(())
}

#[derive(Debug, Clone, Default)]
struct Deposits(Vec<Deposited>);

#[projection(name = "deposits", manual)]
impl Deposits {
    fn deposited(&mut self, event: &AccountEvent) {
        let AccountEvent::Deposited(event) = event;
        self.0.push(event.clone());
    }
}

/// Appends the golden events, and reads them as today's by everything that decodes: loading, the feed, a handler that
/// fails until its dead letters are replayed, a projection and its rebuild.
async fn everything_reads_todays(store: impl EventStore + Clone, bus: impl EventBus) {
    let account = StreamId::parse("Account", "ada").unwrap();
    store.append(&account, ExpectedVersion::NoStream, golden()).await.unwrap();
    let handled = Handled::default();
    let builder = App::builder().store(store.clone()).bus(bus).state(handled.clone());
    let app = builder.handler::<count>().projection_with(Deposits::default).start().await.unwrap();

    let loaded = app.repository::<Account>().load(account.aggregate_id()).await.unwrap();
    assert_eq!((&loaded.deposits, loaded.version().get()), (&todays(), 6), "loading");

    let (head, of_type) = (store.head().await.unwrap(), FeedFilter::from(Deposited::EVENTS));
    let of_type = store.read_feed(Position::START, head, &of_type);
    let fed: Vec<_> = of_type.try_collect().await.unwrap();
    let fed: Vec<Deposited> = fed.iter().map(|record| record.decode().unwrap()).collect();
    assert_eq!(fed, todays(), "the feed of the type");

    let settled = app.settled().await;
    assert!(matches!(settled, Err(SettleError::DeadLetters { .. })), "the handler is not mended yet: {settled:?}");
    assert_eq!(app.projection::<Deposits>().unwrap().read().await.0, todays(), "the projection");
    handled.is_mended.store(true, Ordering::SeqCst);
    let replayed = app.bus().dead_letters().unwrap().replay_all(&Default::default()).await.unwrap();
    assert_eq!(replayed, 5, "dead letters");
    app.settled().await.unwrap();
    let seen: Vec<_> = handled.seen.lock().unwrap().values().cloned().collect();
    assert_eq!(seen, todays(), "the handler");

    app.rebuild::<Deposits>().await.unwrap();
    assert_eq!(app.projection::<Deposits>().unwrap().read().await.0, todays(), "the rebuild");

    app.repository::<Account>().update(account.aggregate_id(), |_| Ok::<_, Never>(todays().remove(0))).await.unwrap();
    let last = app.repository::<Account>().load(account.aggregate_id()).await.unwrap();
    assert_eq!((last.deposits.len(), last.version().get()), (6, 7), "a save behind a retired event");
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

async fn redis_bus(stream_prefix: &str, partitions: u32) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: test_servers::redis_url().into(),
        stream_prefix: stream_prefix.into(),
        partitions,
        block_ms: 50,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    everything_reads_todays(InMemoryEventStore::new(), InMemoryEventBus::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_and_the_file_queue() {
    let folder = stores::folder("versions");
    let store = stores::sqlite(&folder).await;
    let bus = FileQueue::open(FileQueueConfig::at(folder.join("queue"))).await.unwrap();
    everything_reads_todays(store, bus).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_and_redis() {
    let name = test_servers::unique_name("versions");
    let store = stores::postgres(&name).await;
    everything_reads_todays(store, redis_bus(&name, 1).await).await;
    let history = redis_bus(&name, 1).await.history().page(usize::MAX).await.unwrap();
    let read: Vec<_> = history.into_iter().map(|entry| entry.event.unwrap()).collect();
    let deposits = read.iter().filter(|record| record.event_type() != "AccountViewed");
    let deposits: Vec<Deposited> = deposits.map(|record| record.decode().unwrap()).collect();
    assert_eq!(deposits.len(), 6 + 5, "those saved, and those replayed");
    assert!(deposits.iter().all(|deposited| *deposited == todays()[0]), "the history: {deposits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_and_partitions() {
    let name = test_servers::unique_name("versions");
    everything_reads_todays(stores::redis(&name).await, redis_bus(&name, 4).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_file_queue_coordinated_by_redis() {
    let folder = stores::folder("versions");
    let redis = RedisCoordination { redis_url: test_servers::redis_url().into(), ..RedisCoordination::default() };
    let bus = FileQueue::open_with_redis(FileQueueConfig::at(&folder), redis).await.unwrap();
    everything_reads_todays(InMemoryEventStore::new(), bus).await;
    std::fs::remove_dir_all(folder).unwrap();
}
