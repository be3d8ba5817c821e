//! Stored events of every version and name of a type, through everything that decodes events, on every store and bus.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::{
    AggregateRepository, BoxError, EventSet, ExpectedVersion, InMemoryEventBus, InMemoryEventStore, Name, Never,
    NewEvent, Position, StreamId,
    app::SettleError,
    event::{FieldError, Fields},
    port::{EventBus, EventStore},
    prelude::*,
    projection::Projection,
    store::FeedFilter,
};
use eventbus_file::{FileQueue, FileQueueConfig, RedisCoordination};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore};
use eventstore_sqlite::{SqliteTransaction, rusqlite};
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, Executor as _};
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

/// A second state of the accounts, which is kept in snapshots.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(fold_of = Account, events(Deposited), retired("AccountViewed"), snapshot(every = 1_000))]
struct Statement {
    deposits: Vec<Deposited>,
}

impl Apply for Statement {
    fn apply(&mut self, StatementEvent::Deposited(event): &StatementEvent) {
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

/// A snapshot is taken between any two of the golden events; those behind it are appended by an older release, which
/// still runs. Loads read them from there as today's.
async fn events_behind_a_snapshot_are_read_as_todays(store: impl EventStore + Clone) {
    let statements = AggregateRepository::<Statement>::new(store.clone());
    let fold = Name::new("fold", concat!(module_path!(), "::Statement")).unwrap();
    for taken_at in 1..=GOLDEN.len() {
        let id: AggregateId = format!("snapshot-{taken_at}").parse().unwrap();
        let (stream, mut before) = (Statement::stream(&id), golden());
        let behind = before.split_off(taken_at);
        store.append(&stream, ExpectedVersion::NoStream, before).await.unwrap();
        assert_eq!(statements.snapshot(&id).await.unwrap(), taken_at as u64);
        let behind = store.append(&stream, ExpectedVersion::Any, behind).await.unwrap();
        let read = store.snapshots().unwrap().read_from_snapshot(&stream, &fold).await.unwrap();
        assert_eq!(read.snapshot.unwrap().version, taken_at as u64);
        assert_eq!(read.events.try_collect::<Vec<_>>().await.unwrap(), behind, "a load reads only these");
        let loaded = statements.load(&id).await.unwrap();
        assert_eq!((&loaded.deposits, loaded.version().get()), (&todays(), 6), "a snapshot at {taken_at}");
    }
}

/// Returns what a row holds of a deposit.
fn row(event: &Deposited, meta: &Metadata) -> String {
    format!("{} {} {}", meta.version(), event.cents, event.currency)
}

#[derive(Default)]
struct SqliteRows;

#[projection(name = "deposit-rows", tables("deposits"), key = "account", manual)]
impl SqliteRows {
    async fn deposited(&self, event: &Deposited, meta: &Metadata, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        tx.execute("INSERT INTO deposits VALUES (?1, ?2)", (meta.aggregate_id().as_str(), row(event, meta)))?;
        Ok(())
    }
}

#[derive(Default)]
struct PgRows;

#[projection(name = "deposit-rows", tables("deposits"), key = "account", manual)]
impl PgRows {
    async fn deposited(&self, event: &Deposited, meta: &Metadata, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO deposits VALUES ($1, $2)").bind(meta.aggregate_id().as_str());
        insert.bind(row(event, meta)).execute(tx).await.map(drop)
    }
}

/// Rows of the golden events are those of today's, when they are written first, and when they are made anew after
/// `damage`, all or those of the account alone.
async fn rows_are_rebuilt_as_todays<P: Projection + Default>(
    store: impl EventStore + Clone,
    damage: impl AsyncFn(),
    rows: impl AsyncFn() -> Vec<String>,
) {
    let account = StreamId::parse("Account", "ada").unwrap();
    store.append(&account, ExpectedVersion::NoStream, golden()).await.unwrap();
    let app = App::builder().store(store.clone()).projection(P::default()).without_relay().start().await.unwrap();
    drop(app.projected::<P>(store.head().await.unwrap()).await.unwrap());
    let todays = [1, 3, 4, 5, 6].map(|version| format!("{version} 150 EUR"));
    assert_eq!(rows().await, todays, "as they were written");
    damage().await;
    assert_ne!(rows().await, todays, "the damage");
    assert_eq!(app.rebuild::<P>().await.unwrap().events, 5);
    assert_eq!(rows().await, todays, "the rebuild");
    damage().await;
    assert_eq!(app.rebuild_aggregate::<P>(&account).await.unwrap().events, 5);
    assert_eq!(rows().await, todays, "the rebuild of the account");
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_sqlite_are_rebuilt_as_todays() {
    let folder = stores::folder("versions");
    let store = stores::sqlite(&folder).await;
    let raw = rusqlite::Connection::open(folder.join("events.db")).unwrap();
    raw.execute_batch("CREATE TABLE deposits (account TEXT, row TEXT)").unwrap();
    let damage = async || raw.execute_batch("UPDATE deposits SET row = 'damaged'").unwrap();
    let rows = async || -> Vec<String> {
        let mut statement = raw.prepare("SELECT row FROM deposits ORDER BY row").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    rows_are_rebuilt_as_todays::<SqliteRows>(store, damage, rows).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_postgres_are_rebuilt_as_todays() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let connect = async || PgConnection::connect(database.url()).await.unwrap();
    let run = async |sql| connect().await.execute(sqlx::raw_sql(sql)).await.map(|_| ()).unwrap();
    run("CREATE TABLE deposits (account text, row text)").await;
    let damage = async || run("UPDATE deposits SET row = 'damaged'").await;
    let rows = async || -> Vec<String> {
        let rows = sqlx::query_scalar("SELECT row FROM deposits ORDER BY row");
        rows.fetch_all(&mut connect().await).await.unwrap()
    };
    rows_are_rebuilt_as_todays::<PgRows>(store.clone(), damage, rows).await;
    store.close().await;
}

async fn redis_bus(stream_prefix: &str) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: stream_prefix.into(),
        block_ms: 50,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    everything_reads_todays(InMemoryEventStore::new(), InMemoryEventBus::new()).await;
    events_behind_a_snapshot_are_read_as_todays(InMemoryEventStore::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_and_the_file_queue() {
    let folder = stores::folder("versions");
    let store = stores::sqlite(&folder).await;
    let bus = FileQueue::open(FileQueueConfig::at(folder.join("queue"))).await.unwrap();
    everything_reads_todays(store.clone(), bus).await;
    events_behind_a_snapshot_are_read_as_todays(store).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_and_redis() {
    let name = eventbus_test::unique_name("versions");
    let store = stores::postgres(&name).await;
    everything_reads_todays(store.clone(), redis_bus(&name).await).await;
    events_behind_a_snapshot_are_read_as_todays(store).await;
    let history = redis_bus(&name).await.history().page(usize::MAX).await.unwrap();
    let read: Vec<_> = history.into_iter().map(|entry| entry.event.unwrap()).collect();
    let deposits = read.iter().filter(|record| record.event_type() != "AccountViewed");
    let deposits: Vec<Deposited> = deposits.map(|record| record.decode().unwrap()).collect();
    assert_eq!(deposits.len(), 6, "those saved");
    assert!(deposits.iter().all(|deposited| *deposited == todays()[0]), "the history: {deposits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis() {
    let name = eventbus_test::unique_name("versions");
    let store = stores::redis(&name).await;
    everything_reads_todays(store.clone(), redis_bus(&name).await).await;
    events_behind_a_snapshot_are_read_as_todays(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_file_queue_coordinated_by_redis() {
    let folder = stores::folder("versions");
    let redis = RedisCoordination { redis_url: eventbus_test::redis_url().into(), ..RedisCoordination::default() };
    let bus = FileQueue::open_with_redis(FileQueueConfig::at(&folder), redis).await.unwrap();
    everything_reads_todays(InMemoryEventStore::new(), bus).await;
    std::fs::remove_dir_all(folder).unwrap();
}
