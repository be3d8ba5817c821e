//! Reserved columns of the SQL stores: what they hold today, and what this release does with events whose personal fields
//! a newer one has sealed.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    AggregateRepository, BoxError, EventContext, ExpectedVersion, InMemoryEventBus, LoadError, Name, Never, NewEvent,
    Position, RecordedEvent, StreamId, UpdateError, Uuid, Version,
    app::SettleError,
    event::{Attributes, DecodeError},
    port::{Append, Direction, EventStore},
    prelude::*,
    projection::{Projection, ProjectionError, RebuildError},
    repository::{HistoryError, TakeSnapshotError},
    store::MultiStreamAppend,
    testkit::event_bus::SHORT_DELAYS,
};
use eventstore_postgres::{PgConnection, PgEventStore};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, rusqlite};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use time::macros::datetime;
use workspace_tests::stores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Customer, unique(email))]
struct Named {
    email: String,
}

/// An event without a unique value, which stores append by other statements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Customer)]
struct Visited {
    number: u32,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(events(Named, Visited), snapshot(every = 1_000))]
struct Customer {
    emails: Vec<String>,
}

impl Apply for Customer {
    fn apply(&mut self, event: &CustomerEvent) {
        if let CustomerEvent::Named(event) = event {
            self.emails.push(event.email.clone());
        }
    }
}

fn named(number: u32) -> Named {
    Named { email: format!("{number}@example.org") }
}

fn visited(number: u32) -> NewEvent {
    NewEvent::from_event(&Visited { number }).unwrap()
}

/// The name of the fold, as the derive makes it.
fn fold() -> Name {
    Name::new("fold", concat!(module_path!(), "::Customer")).unwrap()
}

fn customer(id: &str) -> StreamId {
    StreamId::parse("Customer", id).unwrap()
}

/// A store in a database of SQL, and connections beside it.
trait Database: Sized {
    /// A projection that writes the addresses into the table `emails`.
    type Rows: Projection + Default;

    async fn create() -> Self;
    fn store(&self) -> Arc<dyn EventStore>;
    /// Runs statements, in which `{events}` and `{streams}` are tables of the store.
    async fn run(&self, sql: &str);
    /// Returns the texts that a query selects.
    async fn ask(&self, sql: &str) -> Vec<String>;
    async fn remove(self);
}

struct Sqlite {
    store: SqliteEventStore,
    folder: PathBuf,
}

#[derive(Default)]
struct SqliteRows;

#[projection(name = "rows", tables("emails"), key = "customer", manual)]
impl SqliteRows {
    async fn named(&self, event: &Named, meta: &Metadata, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        tx.execute("INSERT INTO emails VALUES (?1, ?2)", (meta.aggregate_id().as_str(), event.email.as_str()))?;
        Ok(())
    }
}

impl Sqlite {
    fn connect(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.join("events.db")).unwrap()
    }

    fn tables(sql: &str) -> String {
        sql.replace("{events}", "eventbus_events").replace("{streams}", "eventbus_streams")
    }
}

impl Database for Sqlite {
    type Rows = SqliteRows;

    async fn create() -> Self {
        let folder = stores::folder("reserved");
        Self { store: stores::sqlite(&folder).await, folder }
    }

    fn store(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.clone())
    }

    async fn run(&self, sql: &str) {
        self.connect().execute_batch(&Self::tables(sql)).unwrap();
    }

    async fn ask(&self, sql: &str) -> Vec<String> {
        let connection = self.connect();
        let mut statement = connection.prepare(&Self::tables(sql)).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    async fn remove(self) {
        std::fs::remove_dir_all(self.folder).unwrap();
    }
}

struct Postgres {
    store: PgEventStore,
    database: eventbus_test::Postgres,
}

#[derive(Default)]
struct PgRows;

#[projection(name = "rows", tables("emails"), key = "customer", manual)]
impl PgRows {
    async fn named(&self, event: &Named, meta: &Metadata, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO emails VALUES ($1, $2)").bind(meta.aggregate_id().as_str());
        insert.bind(&event.email).execute(connection).await.map(drop)
    }
}

impl Postgres {
    async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    fn tables(sql: &str) -> String {
        sql.replace("{events}", "eventbus.events").replace("{streams}", "eventbus.streams")
    }
}

impl Database for Postgres {
    type Rows = PgRows;

    async fn create() -> Self {
        let database = eventbus_test::postgres();
        Self { store: PgEventStore::connect(database.url()).await.unwrap(), database }
    }

    fn store(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.clone())
    }

    async fn run(&self, sql: &str) {
        self.connect().await.execute(sqlx::raw_sql(AssertSqlSafe(Self::tables(sql)))).await.unwrap();
    }

    async fn ask(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(Self::tables(sql));
        sqlx::query_scalar(sql).fetch_all(&mut self.connect().await).await.unwrap()
    }

    async fn remove(self) {
        self.store.close().await;
    }
}

/// Saves in every way: by a repository with a unique value, in one append, several at once, several together, in a
/// transaction, and an import with attributes and a tenant. Returns the number of streams.
async fn save_in_every_way(store: &Arc<dyn EventStore>) -> usize {
    let customers = AggregateRepository::<Customer>::new(Arc::clone(store));
    customers.upsert(&"saved".parse().unwrap(), |_| Ok::<_, Never>(named(1))).await.unwrap();
    customers.update(&"saved".parse().unwrap(), |_| Ok::<_, Never>(Visited { number: 2 })).await.unwrap();
    let append = |id: &str, number| Append {
        stream: customer(id),
        expected: ExpectedVersion::Any,
        events: vec![visited(number), visited(number + 1)],
    };
    let Append { stream, expected, events } = append("appended", 10);
    store.append(&stream, expected, events).await.unwrap();
    for appended in store.append_many(vec![append("one of many", 20), append("another of many", 22)]).await {
        appended.unwrap();
    }
    let appends = vec![append("one together", 30), append("another together", 32)];
    let together = MultiStreamAppend { appends, ..Default::default() };
    store.multi_stream_appends().unwrap().append_streams(together).await.unwrap();
    let mut transaction = store.transactions().unwrap().begin().await.unwrap();
    transaction.append(append("in a transaction", 40)).await.unwrap();
    transaction.commit().await.unwrap();
    let context = EventContext::default().with_attributes(Attributes::parse(r#"{"channel":"web"}"#).unwrap());
    let imported = visited(50).with_context(context).with_original_recorded_at(datetime!(2019-05-17 08:30 UTC));
    let of_tenant = customer("imported").with_tenant_id(Some(Uuid::from_u128(7)));
    store.append(&of_tenant, ExpectedVersion::NoStream, vec![imported]).await.unwrap();
    8
}

/// No release before the one that uses a reserved column may have written anything else there. Tags are no longer reserved:
/// events without tags have none.
async fn reserved_columns_hold_their_defaults(database: impl Database) {
    let streams = save_in_every_way(&database.store()).await;
    let of_streams = database.ask("SELECT CAST(kind AS text) || ' ' || CAST(archived_through AS text) FROM {streams}");
    assert_eq!(of_streams.await, vec!["0 0"; streams], "kind and archived_through");
    let tags = "CASE WHEN tags IS NULL THEN 'null' ELSE 'tags' END";
    let sealed = "CASE WHEN has_sealed_fields THEN 'sealed' ELSE 'plain' END";
    let of_events = database.ask(&format!("SELECT {tags} || ' ' || {sealed} FROM {{events}}")).await;
    assert_eq!(of_events, vec!["null plain"; 2 * streams - 1], "tags and has_sealed_fields");
    database.remove().await;
}

#[tokio::test]
async fn on_sqlite_reserved_columns_hold_their_defaults() {
    reserved_columns_hold_their_defaults(Sqlite::create().await).await;
}

#[tokio::test]
async fn on_postgres_reserved_columns_hold_their_defaults() {
    reserved_columns_hold_their_defaults(Postgres::create().await).await;
}

/// The addresses that a projection in memory has seen.
#[derive(Default)]
struct Emails(Vec<String>);

#[projection(name = "in-memory", manual)]
impl Emails {
    fn named(&mut self, event: &Named) {
        self.0.push(event.email.clone());
    }
}

/// Carries records as they are, and so needs to decode none.
#[derive(Default)]
struct Records(Vec<RecordedEvent>);

#[projection(name = "records", manual)]
impl Records {
    fn any(&mut self, event: &RecordedEvent) {
        self.0.push(event.clone());
    }
}

fn is_sealed(error: &LoadError, stream: &StreamId) -> bool {
    matches!(
        error,
        LoadError::Decode { stream: of, version, source: DecodeError::SealedFields { event_type } }
            if of == stream && *version == 3 && event_type == "Named"
    )
}

/// Each way of loading the aggregate up to the third event is refused; the states before it can be loaded.
async fn loading_is_refused(customers: &AggregateRepository<Customer>, id: &AggregateId) {
    let stream = Customer::stream(id);
    let check = |error: LoadError| assert!(is_sealed(&error, &stream), "{error:?}");
    check(customers.load(id).await.unwrap_err());
    check(customers.find(id).await.unwrap_err());
    check(customers.clone().with_cache(10).load(id).await.unwrap_err());
    check(customers.load_at(id, 4.into()).await.unwrap_err());
    check(customers.load_as_of(id, datetime!(9999-12-31 00:00 UTC)).await.unwrap_err());
    assert_eq!(customers.load_at(id, 2.into()).await.unwrap().emails.len(), 2);
    match customers.history(id).await {
        Err(HistoryError::Load(error)) => check(error),
        other => panic!("{other:?}"),
    }
    match customers.snapshot(id).await {
        Err(TakeSnapshotError::Load(error)) => check(error),
        other => panic!("{other:?}"),
    }
    match customers.update(id, |_| Ok::<_, Never>(named(9))).await {
        Err(UpdateError::Load(error)) => check(error),
        other => panic!("{other:?}"),
    }
}

/// The third of four events has sealed fields. Loads are refused, with and without a snapshot before it; projections of
/// its type stop before it, and a rebuild leaves the rows; the feed, and a projection of records, carry it unchanged.
async fn events_with_sealed_fields_are_carried_but_not_decoded<D: Database>(database: D) {
    let store = database.store();
    let (id, other) = ("1".parse().unwrap(), "2".parse().unwrap());
    let customers = AggregateRepository::<Customer>::new(Arc::clone(&store));
    customers.upsert(&id, |_| Ok::<_, Never>([named(1), named(2)])).await.unwrap();
    // a snapshot at version 2, which is put back later
    assert_eq!(customers.snapshot(&id).await.unwrap(), 2);
    let (stream, fold) = (Customer::stream(&id), fold());
    let taken = store.snapshots().unwrap().read_from_snapshot(&stream, &fold).await.unwrap().snapshot.unwrap();
    customers.remove_snapshots().await.unwrap();
    customers.update(&id, |_| Ok::<_, Never>([named(3), named(4)])).await.unwrap();
    customers.upsert(&other, |_| Ok::<_, Never>(named(5))).await.unwrap();
    database.run("CREATE TABLE emails (customer text, email text)").await;
    database.run("UPDATE {events} SET has_sealed_fields = true WHERE version = 3").await;

    loading_is_refused(&customers, &id).await;
    let snapshots = store.snapshots().unwrap();
    assert!(snapshots.save_snapshot(&stream, &fold, &taken).await.unwrap());
    loading_is_refused(&customers, &id).await;
    assert_eq!(customers.load(&other).await.unwrap().emails.len(), 1);
    let read = store.read_stream(&stream, Version::FIRST, Direction::Forward);
    let read: Vec<_> = read.try_collect().await.unwrap();
    let fed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    assert_eq!(fed[..4], read);
    for event in &fed {
        let is_third = event.position() == Some(Position::new(3));
        assert_eq!(event.metadata().has_sealed_fields(), is_third, "{event:?}");
        let decoded = event.decode::<Named>();
        assert_eq!(matches!(decoded, Err(DecodeError::SealedFields { .. })), is_third, "{decoded:?}");
    }

    let app = App::builder().store(Arc::clone(&store)).projection_with(Emails::default).projection(D::Rows::default());
    let app = app.projection_with(Records::default).without_relay().start().await.unwrap();
    assert_eq!(app.projected::<Records>(Position::new(5)).await.unwrap().0, fed);
    for name in ["in-memory", "rows"] {
        stops_before_sealed_fields(&app, name).await;
    }
    let rows = "SELECT customer || ' ' || email FROM emails ORDER BY email";
    let before = ["1 1@example.org", "1 2@example.org"];
    assert_eq!(database.ask(rows).await, before);
    let refused = app.rebuild::<Emails>().await;
    assert!(is_refused(&refused.unwrap_err()));
    let refused = app.rebuild::<D::Rows>().await;
    assert!(is_refused(&refused.unwrap_err()));
    assert_eq!(database.ask(rows).await, before, "a rebuild that is refused");
    let rebuilt = app.rebuild_aggregate::<D::Rows>(&stream).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.position), (2, Position::new(2)), "up to where the projection is");
    assert_eq!(database.ask(rows).await, before);

    // a release that can open the fields
    database.run("UPDATE {events} SET has_sealed_fields = false").await;
    assert!(app.resume_projection::<D::Rows>().unwrap());
    drop(app.projected::<D::Rows>(Position::new(5)).await.unwrap());
    assert_eq!(database.ask(rows).await.len(), 5);
    app.shutdown(Duration::from_secs(30)).await.unwrap();
    database.remove().await;
}

#[handler(manual, retries = 1)]
async fn greet(_event: &Named) {}

/// A handler of this release retries an event with sealed fields, since a newer one can open it: it is no dead letter at
/// once.
async fn events_with_sealed_fields_are_retried<D: Database>(database: D) {
    let store = database.store();
    let customers = AggregateRepository::<Customer>::new(Arc::clone(&store));
    for number in 1..=2 {
        let id = number.to_string().parse().unwrap();
        customers.upsert(&id, |_| Ok::<_, Never>(named(number))).await.unwrap();
    }
    database.run("UPDATE {events} SET has_sealed_fields = true WHERE position = 1").await;
    let bus = InMemoryEventBus::builder().retry(SHORT_DELAYS).build();
    let app = App::builder().store(store).bus(bus).handler::<greet>().start().await.unwrap();
    let settled = app.settled().await;
    assert!(matches!(settled, Err(SettleError::DeadLetters { .. })), "{settled:?}");
    let dead_letters = app.bus().dead_letters().unwrap();
    let page = dead_letters.list_dead_letters(&Default::default(), None, 10).await.unwrap();
    let [dead_letter] = &page.letters[..] else { panic!("{page:?}") };
    assert!(dead_letter.record.as_ref().is_some_and(|record| record.metadata().has_sealed_fields()));
    let error = dead_letter.error.as_deref().unwrap();
    assert!(error.contains("personal fields are sealed"), "{error}");
    assert_eq!(dead_letter.attempts, Some(2), "one call, and the retry that the handler allows");
    app.shutdown(Duration::from_secs(30)).await.unwrap();
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_events_with_sealed_fields_are_retried() {
    events_with_sealed_fields_are_retried(Sqlite::create().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_events_with_sealed_fields_are_retried() {
    events_with_sealed_fields_are_retried(Postgres::create().await).await;
}

fn is_refused(error: &RebuildError) -> bool {
    matches!(
        error,
        RebuildError::Failed { position, error, .. } if *position == 3 && error.contains("personal fields are sealed")
    )
}

async fn stops_before_sealed_fields(app: &App, name: &str) {
    let began = Instant::now();
    loop {
        let statuses = app.projections().await.unwrap();
        let status = statuses.into_iter().find(|status| status.name == name).unwrap();
        match status.stopped {
            Some(ProjectionError::Stopped { position, error, .. }) => {
                assert!(position == 3 && error.contains("personal fields are sealed"), "{name}: {position}, {error}");
                return assert_eq!(status.position, 2, "{name}");
            }
            other => assert!(other.is_none() && began.elapsed() < Duration::from_secs(60), "{name}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_events_with_sealed_fields_are_carried_but_not_decoded() {
    events_with_sealed_fields_are_carried_but_not_decoded(Sqlite::create().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_events_with_sealed_fields_are_carried_but_not_decoded() {
    events_with_sealed_fields_are_carried_but_not_decoded(Postgres::create().await).await;
}
