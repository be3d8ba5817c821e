//! Damaged rows of a store: projections and the relay stop before them until an operator skips them, and then continue
//! behind them.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use eventbus::{
    BoxError, ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId,
    health::HealthThresholds,
    port::{AppendError, AppendEvents as _, EventStore, ReadError, ReadStream as _},
    prelude::*,
    projection::ProjectionError,
    testkit::ManualClock,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction, rusqlite};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use workspace_tests::stores;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    cents: i64,
}

/// The events seen, by their amounts.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<i64>>>);

impl Seen {
    fn sorted(&self) -> Vec<i64> {
        let mut seen = self.0.lock().unwrap().clone();
        seen.sort_unstable();
        seen
    }
}

#[handler(manual)]
async fn note(event: &Paid, State(seen): State<Seen>) -> Result<(), HandlerError> {
    seen.0.lock().map_err(|_| "poisoned")?.push(event.cents);
    Ok(())
}

/// A projection in memory.
#[derive(Default)]
struct Amounts(Vec<i64>);

#[projection(name = "amounts", manual)]
impl Amounts {
    fn paid(&mut self, event: &Paid) {
        self.0.push(event.cents);
    }
}

struct SqliteRows;

#[projection(name = "rows", manual)]
impl SqliteRows {
    async fn paid(&self, event: &Paid, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        tx.execute("INSERT INTO amounts VALUES (?1)", [event.cents])?;
        Ok(())
    }
}

struct PgRows {
    schema: String,
}

#[projection(name = "rows", manual)]
impl PgRows {
    async fn paid(&self, event: &Paid, tx: &mut PgConnection) -> Result<(), BoxError> {
        let sql = AssertSqlSafe(format!("INSERT INTO {}.amounts VALUES ($1)", self.schema));
        sqlx::query(sql).bind(event.cents).execute(tx).await?;
        Ok(())
    }
}

/// Stores the events 1 to 6.
async fn fill(store: &dyn EventStore) {
    for cents in 1..=6 {
        let stream = StreamId::parse("Order", &format!("order-{}", cents % 2)).unwrap();
        let event = NewEvent::from_event(&Paid { cents }).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

/// A projection of all events, in memory.
#[derive(Default)]
struct Positions(Vec<u64>);

#[projection(name = "positions", manual)]
impl Positions {
    fn any(&mut self, event: &RecordedEvent) {
        self.0.push(event.position().unwrap_or_default().get());
    }
}

/// The event at position 3, the second of its stream, is removed. The relay and a projection of all events stop before
/// that, also when the app starts again, until the event is restored: `before` are the events that they have passed,
/// `missing` is what their errors say. A handler of one type gets what the store has of it: `handled` before, and
/// `handled_at_last`.
async fn stops_at_a_missing_event(
    store: impl EventStore + Clone,
    before: &[i64],
    missing: &str,
    [handled, handled_at_last]: [&[i64]; 2],
    restore: impl AsyncFnOnce(),
) {
    let config = RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: eventbus_test::unique_name("missing"),
        ..RedisEventBusConfig::default()
    };
    let seen = Seen::default();
    let start = async || {
        let bus = RedisEventBus::connect(config.clone()).await.unwrap();
        let builder = App::builder().store(store.clone()).bus(bus).projection_with(Positions::default);
        builder.handler::<note>().state(seen.clone()).start().await.unwrap()
    };
    let passed = *before.last().unwrap();
    for _ in 0..2 {
        let app = start().await;
        wait_until("relay and projection name the missing event", async || {
            let relay = app.relay_status().await.unwrap();
            let status = app.projections().await.unwrap().remove(0);
            let is_named = matches!(
                &status.stopped,
                Some(ProjectionError::Damaged { error, .. }) if error.contains(missing)
            );
            is_named && relay.stopped.is_some_and(|error| error.to_string().contains(missing))
        })
        .await;
        wait_until("the events that are there are handled", async || seen.sorted() == handled).await;
        let relay = app.relay_status().await.unwrap();
        let status = app.projections().await.unwrap().remove(0);
        assert_eq!((relay.position, status.position), (Position::new(passed as u64), Position::new(passed as u64)));
        app.shutdown(Duration::from_secs(30)).await.unwrap();
    }
    restore().await;
    let app = start().await;
    assert_eq!(app.projected::<Positions>(Position::new(6)).await.unwrap().0, [1, 2, 3, 4, 5, 6]);
    wait_until("the relay continues", async || app.relay_status().await.unwrap().position == 6).await;
    wait_until("the later events are handled", async || seen.sorted() == handled_at_last).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

/// What SQL says of the missing event, which shows at position 5, the next one of its stream.
const MISSING: (&[i64], &str) = (&[1, 2, 4], "event 2 of stream `Order/order-1`");
/// Handlers of SQL stores read by the types of events, and do not miss one.
const NOT_MISSED: [&[i64]; 2] = [&[1, 2, 4, 5, 6], &[1, 2, 4, 5, 6]];
const REMOVE: &str = "CREATE TABLE copy AS SELECT * FROM {events}; DELETE FROM {events} WHERE position = 3";
const RESTORE: &str = "INSERT INTO {events} SELECT * FROM copy WHERE position = 3";

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_readers_of_all_events_stop_at_a_missing_one() {
    let path = path();
    let store = SqliteEventStore::open(&path).await.unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    let sql = async |sql: &str| raw.execute_batch(&sql.replace("{events}", "eventbus_events")).unwrap();
    fill(&store).await;
    sql(REMOVE).await;
    stops_at_a_missing_event(store, MISSING.0, MISSING.1, NOT_MISSED, async || sql(RESTORE).await).await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_readers_of_all_events_stop_at_a_missing_one() {
    let schema = eventbus_test::unique_name("damaged");
    let database_url = eventbus_test::postgres_url().to_owned();
    let config =
        PgEventStoreConfig { database_url: database_url.clone(), schema: schema.clone(), ..Default::default() };
    let store = PgEventStore::connect_with(config).await.unwrap();
    let run = async |sql: &str| {
        let mut connection = PgConnection::connect(&database_url).await.unwrap();
        let sql = format!("SET search_path TO {schema}; {}", sql.replace("{events}", "events"));
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    };
    fill(&store).await;
    run(REMOVE).await;
    stops_at_a_missing_event(store.clone(), MISSING.0, MISSING.1, NOT_MISSED, async || run(RESTORE).await).await;
    store.close().await;
    run(&format!("DROP SCHEMA {schema} CASCADE")).await;
}

/// The feed has a list of its events, so readers stop at the place of the missing one.
#[tokio::test(flavor = "multi_thread")]
async fn on_redis_readers_of_all_events_stop_at_a_missing_one() {
    let prefix = eventbus_test::unique_name("damaged");
    let store = stores::redis(&prefix).await;
    let connection = eventbus_test::internal::redis_connection(eventbus_test::redis_url()).await;
    fill(&store).await;
    let key = format!("{prefix}:aggregate:Order:order-1");
    let tell = async |command: &redis::Cmd| {
        let reply: redis::Value = command.query_async(&mut connection.clone()).await.unwrap();
        reply
    };
    let entries = tell(redis::cmd("XRANGE").arg(&key).arg("-").arg("+")).await;
    let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(entries).unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(tell(redis::cmd("XDEL").arg(&key).arg("2-0")).await, redis::Value::Int(1));
    // an entry can only be added behind all others
    let restore = async || {
        tell(redis::cmd("DEL").arg(&key)).await;
        for (id, fields) in &entries {
            tell(redis::cmd("XADD").arg(&key).arg(id).arg(fields)).await;
        }
    };
    stops_at_a_missing_event(
        store,
        &[1, 2],
        &format!("key `{key}`, entry 2-0"),
        [&[1, 2], &[1, 2, 3, 4, 5, 6]],
        restore,
    )
    .await;
}

/// Appends to a stream whose row is damaged are refused, and its version is an error, which both name the stream; other
/// streams are not affected.
#[tokio::test]
async fn on_sqlite_a_damaged_row_of_a_stream_is_an_error_that_names_the_stream() {
    for damage in ["version = -1", "recorded_at = 9223372036854775807", "recorded_at = -9223372036854775808"] {
        let path = path();
        let store = SqliteEventStore::open(&path).await.unwrap();
        fill(&store).await;
        let raw = rusqlite::Connection::open(&path).unwrap();
        let sql = format!("UPDATE eventbus_streams SET {damage} WHERE aggregate_id = 'order-1'");
        assert_eq!(raw.execute(&sql, []).unwrap(), 1);
        let [damaged, sound] = ["order-1", "order-0"].map(|id| StreamId::parse("Order", id).unwrap());
        let named = format!("stream `{damaged}`");
        let is_named = |error: &ReadError| matches!(error, ReadError::Corrupt { place, .. } if *place == named);
        let version = store.stream_version(&damaged).await;
        assert!(matches!(&version, Err(error) if is_named(error)), "{damage}: {version:?}");
        for expected in [ExpectedVersion::Any, ExpectedVersion::NoStream, ExpectedVersion::Exact(3.into())] {
            let event = NewEvent::from_event(&Paid { cents: 7 }).unwrap();
            let refused = store.append(&damaged, expected, vec![event]).await;
            let is_refused = match &refused {
                Err(AppendError::Refused { source, .. }) => source.downcast_ref().is_some_and(is_named),
                _ => false,
            };
            assert!(is_refused, "{damage}, {expected}: {refused:?}");
        }
        assert_eq!(store.stream_version(&sound).await.unwrap(), 3);
        let event = NewEvent::from_event(&Paid { cents: 8 }).unwrap();
        let stored = store.append(&sound, ExpectedVersion::Exact(3.into()), vec![event]).await.unwrap();
        assert_eq!(stored[0].position(), Some(Position::new(7)), "no refused event was stored");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(120), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns a clock that follows real time, and that a test can advance.
fn passing_time() -> ManualClock {
    let clock = ManualClock::default();
    let passing = clock.clone();
    tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = Instant::now();
            passing.advance(now - last);
            last = now;
        }
    });
    clock
}

/// Checks that the error names the position of the unreadable row, and that the alerts say since when.
async fn stop_at(app: &App, position: u64) {
    let place = format!("position {position}");
    wait_until(&format!("both projections stop at {place}"), async || {
        app.projections().await.unwrap().iter().all(|status| match &status.stopped {
            Some(ProjectionError::Damaged { position: at, error, .. }) => {
                at.get() <= position && error.contains(&place)
            }
            _ => false,
        })
    })
    .await;
    wait_until("an alert names each of them", async || {
        let alerts = app.health().await.alerts(&HealthThresholds::default());
        ["amounts", "rows"].iter().all(|name| {
            let stopped = format!("projection `{name}` stopped before position ");
            alerts.iter().any(|alert| alert.starts_with(&stopped) && alert.contains("(since "))
        })
    })
    .await;
}

/// Damages the rows at positions 3 and 6, the last one: every reader stops there until an operator skips them.
async fn goes_on_behind_damage<P: eventbus::projection::Projection>(
    store: impl EventStore + Clone,
    bus: Option<RedisEventBus>,
    rows: P,
    stored_rows: impl AsyncFn() -> Vec<i64>,
) {
    let (clock, seen) = (passing_time(), Seen::default());
    let builder = App::builder().clock(clock.clone()).store(store).projection_with(Amounts::default).projection(rows);
    let builder = builder.handler::<note>().state(seen.clone());
    let has_relay = bus.is_some();
    let builder = match bus {
        Some(bus) => builder.bus(bus),
        None => builder,
    };
    let app = builder.start().await.unwrap();
    if has_relay {
        wait_until("the relay is kept by the damage", async || {
            let status = app.relay_status().await.unwrap();
            status.position == 2 && (status.trouble.is_some() || status.stopped.is_some())
        })
        .await;
    }
    wait_until("the handler is kept by the damage", async || seen.sorted() == [1, 2]).await;
    for position in [3, 6] {
        stop_at(&app, position).await;
        let position = Position::new(position);
        assert!(app.skip_event::<Amounts>(position, "damaged, see incident 5").await.unwrap());
        assert!(app.skip_event::<P>(position, "damaged, see incident 5").await.unwrap());
        assert!(app.skip_published_event(position, "damaged, see incident 5").await.unwrap());
    }
    // a stopped relay retries every minute
    wait_until("the relay continues", async || {
        clock.advance(Duration::from_secs(1));
        !has_relay || app.relay_status().await.unwrap().position == 6
    })
    .await;
    app.settled().await.unwrap();
    assert_eq!(app.projected::<Amounts>(Position::new(6)).await.unwrap().0, [1, 2, 4, 5]);
    assert_eq!(stored_rows().await, [1, 2, 4, 5]);
    assert_eq!(seen.sorted(), [1, 2, 4, 5]);
    if let Some(relay) = app.relay_status().await {
        assert_eq!((relay.position, relay.skipped), (Position::new(6), Some(2)), "{relay:?}");
        assert!(relay.trouble.is_none() && relay.stopped.is_none() && relay.lag == Some(Duration::ZERO), "{relay:?}");
    }
    for status in app.projections().await.unwrap() {
        assert!(status.stopped.is_none() && status.trouble.is_none() && status.skipped == 2, "{status:?}");
    }
    let skipped = app.skipped_events().await.unwrap();
    assert_eq!(skipped.len(), 6);
    assert!(skipped.iter().all(|event| event.reason == "damaged, see incident 5"), "{skipped:?}");

    // later events are delivered
    let (stream, event) =
        (StreamId::parse("Order", "later").unwrap(), NewEvent::from_event(&Paid { cents: 7 }).unwrap());
    app.store().append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(seen.sorted(), [1, 2, 4, 5, 7]);
    assert_eq!(stored_rows().await, [1, 2, 4, 5, 7]);
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

fn path() -> PathBuf {
    let folder = std::env::temp_dir().join(eventbus_test::unique_name("damaged"));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("events.db")
}

async fn on_sqlite(bus: Option<RedisEventBus>) {
    let path = path();
    let store = SqliteEventStore::open(&path).await.unwrap();
    fill(&store).await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "CREATE TABLE amounts (cents INTEGER);
         UPDATE eventbus_events SET schema_version = -1 WHERE position IN (3, 6)",
    )
    .unwrap();
    goes_on_behind_damage(store, bus, SqliteRows, async || {
        let mut statement = raw.prepare("SELECT cents FROM amounts ORDER BY cents").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    })
    .await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_everything_goes_on_behind_damage_that_an_operator_skips() {
    on_sqlite(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_everything_goes_on_behind_damage_that_an_operator_skips() {
    let config = RedisEventBusConfig {
        redis_url: eventbus_test::redis_url().into(),
        stream_prefix: eventbus_test::unique_name("damaged"),
        ..RedisEventBusConfig::default()
    };
    on_sqlite(Some(RedisEventBus::connect(config).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_everything_goes_on_behind_damage_that_an_operator_skips() {
    let schema = eventbus_test::unique_name("damaged");
    let database_url = eventbus_test::postgres_url().to_owned();
    let config =
        PgEventStoreConfig { database_url: database_url.clone(), schema: schema.clone(), ..Default::default() };
    let store = PgEventStore::connect_with(config).await.unwrap();
    fill(&store).await;
    let run = async |sql: String| {
        let mut connection = PgConnection::connect(&database_url).await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
    };
    run(format!("CREATE TABLE {schema}.amounts (cents bigint)")).await;
    run(format!("UPDATE {schema}.events SET schema_version = -1 WHERE position IN (3, 6)")).await;
    let rows = PgRows { schema: schema.clone() };
    goes_on_behind_damage(store.clone(), None, rows, async || {
        let mut connection = PgConnection::connect(&database_url).await.unwrap();
        let sql = AssertSqlSafe(format!("SELECT cents FROM {schema}.amounts ORDER BY cents"));
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    })
    .await;
    store.close().await;
    run(format!("DROP SCHEMA {schema} CASCADE")).await;
}
