//! What the chapter on backups says of a store that is restored from an older copy, beside a Redis that is newer or empty.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use eventbus::{Position, prelude::*, relay::RelayError};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::PrivateRedis;
use eventstore_postgres::{
    PgConnection, PgEventStore,
    sqlx::{self, AssertSqlSafe, Connection as _},
};
use guide::bank::{Account, Deposited};

/// The amounts that the handler has had.
type Amounts = Arc<Mutex<BTreeSet<i64>>>;

#[handler(manual, group = "mail")]
async fn thank(event: &Deposited, State(amounts): State<Amounts>) -> Result<(), HandlerError> {
    amounts.lock().map_err(|_| "poisoned")?.insert(event.cents);
    Ok(())
}

/// Returns `true` for a position, and for the name of a stream.
fn is_name(word: &str) -> bool {
    word.starts_with("`redis:") || word.parse::<u64>().is_ok()
}

async fn administer(statement: &str) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await?;
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut admin).await.map(|_| ())
}

async fn start(database: &str, redis: &PrivateRedis, amounts: &Amounts) -> App {
    let store = PgEventStore::connect(database).await.unwrap();
    let bus = RedisEventBus::connect(RedisEventBusConfig {
        redis_url: redis.url().into(),
        stream_prefix: "bank".into(),
        consumer_group: "mail".into(),
        consumer_name: Some("worker-1".into()),
        block_ms: 100,
        ..Default::default()
    });
    let app = App::builder().store(store).bus(bus.await.unwrap()).state(amounts.clone()).handler::<thank>();
    app.start().await.unwrap()
}

async fn deposit(app: &App, amounts: impl IntoIterator<Item = i64>) {
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    if !accounts.exists(&ada).await.unwrap() {
        accounts.create_with(&ada, "Ada".into(), Account::open).await.unwrap();
    }
    for cents in amounts {
        accounts.update_with(&ada, cents, Account::deposit).await.unwrap();
    }
}

async fn stop(app: App) {
    app.shutdown(Duration::from_secs(20)).await.unwrap();
}

/// A store whose events end at a backup, and the Redis that has more of them.
struct Restored {
    /// The name of the copy.
    copy: String,
    database: String,
    ends_at: Position,
    redis: PrivateRedis,
    _original: eventbus_test::Postgres,
}

impl Restored {
    /// Saves the amounts 1 to 3, copies the database, saves 4 to 6 in the original, and forgets the original.
    async fn begin(amounts: &Amounts) -> Self {
        let (original, redis) = (eventbus_test::postgres(), eventbus_test::private_redis());
        let app = start(original.url(), &redis, amounts).await;
        deposit(&app, 1..=3).await;
        app.settled().await.unwrap();
        let ends_at = app.store().head().await.unwrap();
        stop(app).await;

        let name = original.url().rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        let copy = eventbus_test::unique_name("test");
        // the server copies a database only once all its sessions have ended
        let began = Instant::now();
        while let Err(error) = administer(&format!("CREATE DATABASE {copy} TEMPLATE {name}")).await {
            assert!(began.elapsed() < Duration::from_secs(30), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let app = start(original.url(), &redis, amounts).await;
        deposit(&app, 4..=6).await;
        app.settled().await.unwrap();
        stop(app).await;
        let database = eventbus_test::database_url_for(&copy);
        Self { copy, database, ends_at, redis, _original: original }
    }

    async fn end(self, app: App) {
        stop(app).await;
        drop(self.redis);
        administer(&format!("DROP DATABASE {} WITH (FORCE)", self.copy)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_newer_redis_the_relay_stops_until_it_publishes_again() {
    let before = Amounts::default();
    let restored = Restored::begin(&before).await;
    let amounts = Amounts::default();
    let app = start(&restored.database, &restored.redis, &amounts).await;
    deposit(&app, 7..=9).await; // saves work, and get positions that were published before
    let head = app.store().head().await.unwrap();
    let stopped = app.published(head).await.unwrap_err().to_string();
    // the chapter shows the alert, in lines, with the names and positions of its own
    let chapter = include_str!("../src/backup-and-restore.md");
    let shown = chapter.split("```text\nthe relay does not publish: ").nth(1).unwrap().split("```").next().unwrap();
    let without_names =
        |text: &str| text.split_whitespace().filter(|word| !is_name(word)).collect::<Vec<_>>().join(" ");
    assert_eq!(without_names(&stopped), without_names(shown));
    let status = app.relay_status().await.unwrap();
    assert!(matches!(status.stopped, Some(RelayError::StoreBehindBus { .. })), "{status:?}");
    // the app's own handlers read the store, and go on
    app.settled().await.unwrap_err();
    let began = Instant::now();
    while *amounts.lock().unwrap() != BTreeSet::from([7, 8, 9]) {
        assert!(began.elapsed() < Duration::from_secs(60), "the handlers do not go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    assert_eq!(app.republish(None).await.unwrap(), restored.ends_at);
    let began = Instant::now();
    while app.relay_status().await.unwrap().stopped.is_some() {
        assert!(began.elapsed() < Duration::from_secs(70), "the relay stays stopped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    app.settled().await.unwrap();
    assert_eq!(*amounts.lock().unwrap(), BTreeSet::from([7, 8, 9]));
    restored.end(app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_empty_redis_it_goes_on_by_itself() {
    let before = Amounts::default();
    let mut restored = Restored::begin(&before).await;
    restored.redis.stop();
    restored.redis.start_empty();
    let amounts = Amounts::default();
    let app = start(&restored.database, &restored.redis, &amounts).await;
    deposit(&app, 7..=9).await;
    app.settled().await.unwrap();
    // events that the group had finished before the backup may come again, those that the store lost do not
    let handled = amounts.lock().unwrap().clone();
    assert!(handled.is_superset(&BTreeSet::from([7, 8, 9])), "{handled:?}");
    assert!(handled.is_disjoint(&BTreeSet::from([4, 5, 6])), "{handled:?}");
    restored.end(app).await;
}
