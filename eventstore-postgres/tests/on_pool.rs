//! A store on a pool of the application: the sizes that work, and what the two leave of each other's.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;
#[path = "common/counter.rs"]
mod counter;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{TestDatabase, add, event, events, feed, read, run, stream, within};
use counter::{Counted, Counter};
use eventbus::{
    App, ExpectedVersion, Name, Never, Position, StreamId, Version,
    port::{
        Append, AppendError, AppendEvents as _, Checkpoints as _, Direction, EventStore as _, FromTransaction as _,
        Leases as _, ReadFeed as _, ReadStream as _,
    },
    prelude::*,
};
use eventstore_postgres::{
    PgAppendInError, PgConnectError, PgConnection, PgEventStore, PgOnPoolConfig, PgTransactionError,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::{AssertSqlSafe, Executor as _, PgPool, postgres::PgPoolOptions};
use tokio::task::JoinSet;

/// Well below the time limits of statements and transactions: a wait in a circle fails.
const NOT_LONG: Duration = Duration::from_secs(5);

/// The configurations with the smallest pool of each.
fn smallest() -> [(u32, PgOnPoolConfig); 3] {
    let all = PgOnPoolConfig::default();
    let without_notify = PgOnPoolConfig { notify: false, ..all.clone() };
    let statements_only = PgOnPoolConfig { max_transactions: Some(0), ..without_notify.clone() };
    [(3, all), (2, without_notify), (1, statements_only)]
}

struct Place {
    database: TestDatabase,
    pool: PgPool,
}

impl Place {
    async fn new(connections: u32) -> Self {
        Self::with(PgPoolOptions::new().max_connections(connections)).await
    }

    async fn with(options: PgPoolOptions) -> Self {
        let database = TestDatabase::create("").await;
        let pool = options.acquire_timeout(NOT_LONG).connect(&database.url()).await.unwrap();
        Self { database, pool }
    }

    async fn store(&self, config: PgOnPoolConfig) -> PgEventStore {
        within(PgEventStore::on_with(self.pool.clone(), config)).await.unwrap()
    }

    /// Connections of the database except for the one that asks.
    async fn connections(&self) -> i64 {
        let mut admin = self.database.connection().await;
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query_scalar(sql).fetch_one(&mut admin).await.unwrap()
    }

    /// Takes all connections of the pool at once, and shows what its sessions have set.
    async fn sessions(&self) -> Vec<String> {
        let mut taken = Vec::new();
        for _ in 0..self.pool.options().get_max_connections() {
            taken.push(within(self.pool.acquire()).await.unwrap());
        }
        let mut sessions = Vec::new();
        for connection in &mut taken {
            let shown = sqlx::query_scalar(SETTINGS).fetch_one(&mut **connection).await;
            sessions.push(shown.unwrap());
        }
        sessions
    }
}

const SETTINGS: &str = "SELECT concat_ws(' ', current_setting('statement_timeout'),
    current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'),
    current_setting('enable_seqscan'), current_setting('enable_bitmapscan'), current_setting('jit'),
    current_setting('transaction_isolation'), current_setting('synchronous_commit'), current_setting('search_path'),
    current_setting('application_name'), (SELECT count(*) FROM pg_listening_channels()))";

const SETTINGS_OF_APPLICATION: &str = "SET statement_timeout = '7s'; SET idle_in_transaction_session_timeout = '8s';
    SET lock_timeout = '9s'; SET default_transaction_isolation = 'repeatable read'; SET search_path = app;
    SET application_name = 'orders'";

const OF_APPLICATION: &str = "7s 8s 9s on on on repeatable read on app orders 0";

#[tokio::test]
async fn a_pool_that_is_too_small_is_refused_with_the_size_that_works() {
    let of = |max_transactions, notify| PgOnPoolConfig { max_transactions, notify, ..Default::default() };
    for (connections, config, needed, transactions) in [
        (1, of(None, true), 3, 1),
        (2, of(None, true), 3, 1),
        (1, of(None, false), 2, 1),
        (1, of(Some(0), true), 2, 0),
        (9, of(Some(9), false), 10, 9),
        (10, of(Some(9), true), 11, 9),
        (10, of(Some(u32::MAX), true), u32::MAX, u32::MAX),
    ] {
        let pool =
            PgPoolOptions::new().max_connections(connections).connect_lazy(eventbus_test::postgres_url()).unwrap();
        let notify = config.notify;
        let error = PgEventStore::on_with(pool, config).await.unwrap_err();
        assert!(!error.is_retryable());
        let text = error.to_string();
        let begin =
            format!("the pool has at most {connections} connections, the store needs {needed}: {transactions} for");
        assert!(text.starts_with(&begin), "{text}");
        match error {
            PgConnectError::PoolTooSmall { connections: c, needed: n, transactions: t, notify: with, .. } => {
                assert_eq!((c, n, t, with), (connections, needed, transactions, notify));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pool_that_is_closed_and_limits_without_sense_are_refused() {
    let pool = PgPoolOptions::new().connect_lazy(eventbus_test::postgres_url()).unwrap();
    let good = PgOnPoolConfig::default;
    for (config, named) in [
        (PgOnPoolConfig { append_queue: 0, ..good() }, "append_queue"),
        (PgOnPoolConfig { statement_timeout: Duration::ZERO, ..good() }, "statement_timeout"),
        (PgOnPoolConfig { migration_timeout: Duration::ZERO, ..good() }, "migration_timeout"),
        (PgOnPoolConfig { transaction_timeout: Duration::MAX, ..good() }, "transaction_timeout"),
    ] {
        let error = PgEventStore::on_with(pool.clone(), config).await.unwrap_err();
        assert!(matches!(error, PgConnectError::InvalidConfig { field, .. } if field == named), "{error:?}");
    }
    let error = PgEventStore::on_with(pool.clone(), PgOnPoolConfig { schema: "A".into(), ..good() }).await.unwrap_err();
    assert!(matches!(error, PgConnectError::InvalidSchema { .. }), "{error:?}");
    pool.close().await;
    let error = PgEventStore::on(pool).await.unwrap_err();
    assert!(matches!(error, PgConnectError::PoolClosed), "{error:?}");
}

#[tokio::test]
async fn errors_and_the_description_name_the_server_without_the_password() {
    let options = || PgPoolOptions::new().acquire_timeout(NOT_LONG);
    let closed = format!("postgres://u:secret@127.0.0.1:{}/db", eventbus_test::internal::closed_port());
    let error = PgEventStore::on(options().connect_lazy(&closed).unwrap()).await.unwrap_err();
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("postgres://u@127.0.0.1:") && !shown.contains("secret"), "{shown}");
    let database = TestDatabase::create("").await;
    let store = PgEventStore::on(options().connect(&format!("{}?password=secret", database.url())).await.unwrap());
    let shown = store.await.unwrap().describe();
    assert!(shown.contains(database.name()) && !shown.contains("secret"), "{shown}");
}

/// Every part of the store at once, many times: appends to one stream and to many, loads, the feed while appends run,
/// transactions that append, load and renew a lease beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smallest_pool_works_under_load() {
    for (connections, config) in smallest() {
        let place = Place::new(connections).await;
        let with_transactions = config.max_transactions.is_none();
        let store = place.store(config).await;
        run(&mut place.database.connection().await, "CREATE TABLE public.notes (number bigint)").await;
        let shared = stream();
        let mut tasks = JoinSet::new();
        for number in 0..16 {
            let (store, shared) = (store.clone(), shared.clone());
            tasks.spawn(async move {
                for round in 0..10 {
                    add(&store, &shared, 1).await;
                    let own = stream();
                    add(&store, &own, 2).await;
                    assert_eq!(read(&store, &own).await.len(), 2);
                    let _ = feed(&store).await;
                    if with_transactions {
                        busy_transaction(&store, &shared, number * 100 + round).await;
                    }
                }
            });
        }
        within(tasks.join_all()).await;
        let of_transactions = if with_transactions { 16 * 10 * 2 } else { 0 };
        assert_eq!(read(&store, &shared).await.len(), 16 * 10 + of_transactions);
        assert_eq!(feed(&store).await.len(), 16 * 10 * 3 + of_transactions);
        let most = i64::from(connections);
        assert!(place.connections().await <= most, "the store opens no connection beside the pool");
    }
}

/// A transaction that holds its connection while it waits for statements on a second one.
async fn busy_transaction(store: &PgEventStore, shared: &StreamId, number: i64) {
    let mut transaction = store.begin_transaction().await.unwrap();
    let insert = sqlx::query("INSERT INTO public.notes VALUES ($1)").bind(number);
    insert.execute(transaction.connection()).await.unwrap();
    let (role, owner) = (Name::from_static("role"), Name::from_static("owner"));
    let lease = store.acquire_lease(&role, &owner, NOT_LONG).await.unwrap().unwrap();
    store.renew_lease(&lease, NOT_LONG).await.unwrap();
    add(store, shared, 1).await;
    let in_transaction = store.append_in(transaction.connection(), shared, ExpectedVersion::Any, events(1));
    in_transaction.await.unwrap();
    // appends of other tasks to the stream now wait for this transaction, and must leave a connection for its load
    store.stream_version(shared).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Appends that wait for the row of a transaction leave the connection that the transaction needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_finds_a_connection_while_appends_wait_for_it() {
    for (connections, config) in smallest().into_iter().take(2) {
        let place = Place::new(connections).await;
        let store = place.store(config).await;
        let blocked = stream();
        let mut transaction = store.begin_transaction().await.unwrap();
        let first = store.append_in(transaction.connection(), &blocked, ExpectedVersion::Any, events(1));
        first.await.unwrap();
        let waiting: JoinSet<_> = (0..4)
            .map(|_| {
                let (store, blocked) = (store.clone(), blocked.clone());
                async move { add(&store, &blocked, 1).await }
            })
            .collect();
        let mut watcher = place.database.connection().await;
        common::blocked_backend(&mut watcher, "eventbus").await;
        for _ in 0..20 {
            tokio::time::timeout(NOT_LONG, store.head()).await.expect("it waits for the appends").unwrap();
        }
        transaction.commit().await.unwrap();
        within(waiting.join_all()).await;
        assert_eq!(read(&store, &blocked).await.len(), 5);
    }
}

#[tokio::test]
async fn an_open_stream_of_events_holds_no_connection() {
    let (connections, config) = smallest().into_iter().next_back().unwrap();
    let place = Place::new(connections).await;
    let store = place.store(config).await;
    let long = stream();
    add(&store, &long, 2_500).await;
    let mut records = store.read_stream(&long, Version::FIRST, Direction::Forward);
    let mut all = store.read_all(Position::START);
    for number in 1..=2_500 {
        let (of_stream, of_feed) = (records.next().await.unwrap().unwrap(), all.next().await.unwrap().unwrap());
        assert_eq!((of_stream.version().get(), of_feed.position().unwrap().get()), (number, number));
        if number % 500 == 0 {
            add(&store, &stream(), 1).await;
            place.pool.execute("SELECT 1").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_without_transactions_says_so() {
    let (connections, config) = smallest().into_iter().next_back().unwrap();
    let place = Place::new(connections).await;
    let store = place.store(config).await;
    assert!(store.transactions().is_none());
    let error = store.begin_transaction().await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PgTransactionError::NoTransactions)), "{error}");
    let name = Name::from_static("reader");
    store.save_checkpoint(&name, Position::new(7)).await.unwrap();
    assert_eq!(store.load_checkpoint(&name).await.unwrap(), Some(Position::new(7)));
    let error = App::builder().store(store).discover().start().await.unwrap_err();
    assert!(error.to_string().contains("PgTransaction"), "{error}");
}

/// Triggers see the settings of the statements that append; the sessions keep those of the application.
#[tokio::test]
async fn statements_have_the_settings_of_the_store_and_leave_those_of_the_application() {
    let options = PgPoolOptions::new().max_connections(2).after_connect(|connection, _| {
        Box::pin(async move { connection.execute(sqlx::raw_sql(SETTINGS_OF_APPLICATION)).await.map(drop) })
    });
    let place = Place::with(options).await;
    let mut admin = place.database.connection().await;
    run(&mut admin, "CREATE SCHEMA app; CREATE TABLE app.notes (note text)").await;
    let config =
        PgOnPoolConfig { notify: false, statement_timeout: Duration::from_secs(20), ..PgOnPoolConfig::default() };
    let store = place.store(config).await;
    let see = format!(
        "CREATE FUNCTION app.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO app.notes {SETTINGS}; RETURN NULL;
         END $$;
         CREATE TRIGGER see AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION app.see()"
    );
    run(&mut admin, &see).await;
    // an earlier user of the connections, who did not clean up
    let mut taken = [place.pool.acquire().await.unwrap(), place.pool.acquire().await.unwrap()];
    for connection in &mut taken {
        run(connection, "SET synchronous_commit = off; SET default_transaction_read_only = on").await;
    }
    drop(taken);
    let known = stream();
    add(&store, &known, 1).await;
    let notes = || async { sqlx::query_scalar::<_, String>("TABLE app.notes").fetch_all(&place.pool).await.unwrap() };
    assert_eq!(notes().await, ["20s 20s 0 off off off read committed on app orders 0"]);
    let kept = OF_APPLICATION.replace("read on app", "read off app");
    assert_eq!(place.sessions().await, [kept.clone(), kept.clone()]);

    // after a conflict, a refusal of the server, and a caller that went away
    let conflict = store.append(&known, ExpectedVersion::NoStream, vec![event()]).await.unwrap_err();
    assert!(matches!(conflict, AppendError::Conflict { .. }), "{conflict}");
    run(&mut admin, "ALTER TABLE events ADD CONSTRAINT none CHECK (version < 2) NOT VALID").await;
    let refused = store.append(&known, ExpectedVersion::Any, vec![event()]).await.unwrap_err();
    assert!(matches!(refused, AppendError::Refused { .. }), "{refused}");
    run(&mut admin, "BEGIN; LOCK TABLE events").await;
    let mut watcher = place.database.connection().await;
    tokio::select! {
        _ = feed(&store) => unreachable!("the table is locked"),
        _ = common::waiting_backend(&mut watcher, "\"eventbus\".events") => {}
    }
    run(&mut admin, "ROLLBACK").await;
    let left = place.sessions().await;
    // the connection of a caller that went away is closed: a new one has no leftovers
    assert!(left.iter().all(|session| *session == kept || session == OF_APPLICATION), "{left:?}");
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE '%in transaction%'",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!(open, 0);
}

#[tokio::test]
async fn transactions_leave_the_settings_of_the_application() {
    let options = PgPoolOptions::new().max_connections(2).after_connect(|connection, _| {
        Box::pin(async move { connection.execute(sqlx::raw_sql(SETTINGS_OF_APPLICATION)).await.map(drop) })
    });
    let place = Place::with(options).await;
    run(&mut place.database.connection().await, "CREATE SCHEMA app; CREATE TABLE app.notes (note text)").await;
    let store = place.store(PgOnPoolConfig { notify: false, ..PgOnPoolConfig::default() }).await;
    for commit in [true, false] {
        let mut transaction = store.begin_transaction().await.unwrap();
        let connection = transaction.connection();
        let inside: String = sqlx::query_scalar(SETTINGS).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(inside, "10s 10s 5s on on on read committed on app orders 0");
        run(connection, "INSERT INTO notes VALUES ('by the path of the application')").await;
        store.append_in(connection, &stream(), ExpectedVersion::NoStream, events(1)).await.unwrap();
        match commit {
            true => transaction.commit().await.unwrap(),
            false => drop(transaction),
        }
        assert_eq!(place.sessions().await, [OF_APPLICATION; 2]);
    }
    assert_eq!(feed(&store).await.len(), 1);
    let notes: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&place.pool).await.unwrap();
    assert_eq!(notes, 1);
}

/// An earlier user of the connections has switched the wait for the disk off, and did not clean up.
#[tokio::test]
async fn the_commit_of_a_handler_waits_for_the_disk() {
    let place = Place::new(2).await;
    let store = place.store(PgOnPoolConfig { notify: false, ..PgOnPoolConfig::default() }).await;
    let mut taken = [place.pool.acquire().await.unwrap(), place.pool.acquire().await.unwrap()];
    for connection in &mut taken {
        run(connection, "SET synchronous_commit = off").await;
    }
    drop(taken);
    let mut transaction = within(store.transactions().unwrap().begin()).await.unwrap();
    let append = Append { stream: stream(), expected: ExpectedVersion::NoStream, events: events(1) };
    transaction.append(append).await.unwrap();
    let connection = PgConnection::take(Some(transaction.as_any_mut())).unwrap();
    let setting = "SHOW synchronous_commit";
    let inside: String = sqlx::query_scalar(setting).fetch_one(&mut *connection).await.unwrap();
    assert_eq!(inside, "on");
    transaction.commit().await.unwrap();
    let after: String = sqlx::query_scalar(setting).fetch_one(&place.pool).await.unwrap();
    assert_eq!(after, "off", "the session keeps what the application has set");
}

/// As behind a pooler that shares connections, and does not keep track of prepared statements.
#[tokio::test]
async fn an_append_is_not_refused_for_the_name_of_a_prepared_statement() {
    let (connections, config) = smallest().into_iter().next_back().unwrap();
    let place = Place::new(connections).await;
    let store = place.store(config).await;
    let mut connection = place.pool.acquire().await.unwrap();
    for number in 1..200 {
        // names that the driver will give; it has given the first ones already
        let prepare = AssertSqlSafe(format!("PREPARE sqlx_s_{number} AS SELECT 1"));
        drop(connection.execute(sqlx::raw_sql(prepare)).await);
    }
    drop(connection);
    let known = stream();
    let error = store.append(&known, ExpectedVersion::Any, events(1)).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
    // the connection was replaced
    add(&store, &known, 1).await;
}

/// The texts of appends at an exact version that the sessions of the pool have prepared.
async fn prepared_appends(pool: &PgPool) -> Vec<String> {
    let sql = "SELECT statement FROM pg_prepared_statements
               WHERE statement LIKE '%INSERT INTO \"eventbus\".events%' AND statement LIKE '%version = $14%'
                   AND statement NOT LIKE '%pg_prepared_statements%'";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

/// The server keeps the plan of a text on a connection, with the settings of its first runs.
#[tokio::test]
async fn no_text_is_planned_both_with_and_without_the_settings_of_the_store() {
    let (_, _, (connections, config)) = smallest().into();
    let mut place = Place::new(connections).await;
    let (store, known) = (place.store(config.clone()).await, stream());
    add(&store, &known, 1).await;
    let exact = |version| ExpectedVersion::Exact(Version::new(version));
    store.append(&known, exact(1), events(1)).await.unwrap();
    let by_store = prepared_appends(&place.pool).await;
    let options = PgPoolOptions::new().max_connections(connections);
    place.pool = options.connect(&place.database.url()).await.unwrap();
    let store = place.store(config).await;
    let mut transaction = place.pool.begin().await.unwrap();
    // the first, which does not know the types that are listed, has a text of its own
    for version in [2, 3] {
        store.append_in(&mut transaction, &known, exact(version), events(1)).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let in_transaction = prepared_appends(&place.pool).await;
    assert_eq!((by_store.len(), in_transaction.len()), (1, 2));
    assert!(!in_transaction.contains(&by_store[0]), "{by_store:?}");
}

#[tokio::test]
async fn rows_of_the_application_and_events_commit_together() {
    let place = Place::new(10).await;
    let store = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    place.pool.execute("CREATE TABLE accounts (name text PRIMARY KEY)").await.unwrap();
    for commit in [false, true] {
        let mut transaction = place.pool.begin().await.unwrap();
        transaction.execute("INSERT INTO accounts VALUES ('ada')").await.unwrap();
        store.append_in(&mut transaction, &stream(), ExpectedVersion::NoStream, events(1)).await.unwrap();
        match commit {
            true => transaction.commit().await.unwrap(),
            // not dropped: the feed waits for the end of an open append
            false => transaction.rollback().await.unwrap(),
        }
    }
    add(&store, &stream(), 1).await;
    place.pool.execute("INSERT INTO accounts VALUES ('bob')").await.unwrap();
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM accounts").fetch_one(&place.pool).await.unwrap();
    assert_eq!((accounts, feed(&store).await.len()), (2, 2));
    let mut connection = place.pool.acquire().await.unwrap();
    let refused = store.append_in(&mut connection, &stream(), ExpectedVersion::NoStream, events(1)).await.unwrap_err();
    let source = std::error::Error::source(&refused).unwrap();
    assert_eq!(source.downcast_ref(), Some(&PgAppendInError::NoTransaction));
}

#[tokio::test]
async fn closing_the_store_leaves_the_pool_and_all_its_connections() {
    let place = Place::new(3).await;
    let store = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    add(&store, &stream(), 1).await;
    let mut transaction = store.begin_transaction().await.unwrap();
    let (last, late) = (stream(), stream());
    store.append_in(transaction.connection(), &last, ExpectedVersion::Any, events(1)).await.unwrap();
    let is_committed = AtomicBool::new(false);
    let close = async {
        store.close().await;
        assert!(is_committed.load(Ordering::Relaxed), "it waits for the transaction");
    };
    let commit = async {
        while store.head().await.is_ok() {
            tokio::task::yield_now().await;
        }
        transaction.commit().await.unwrap();
        is_committed.store(true, Ordering::Relaxed);
    };
    within(async { tokio::join!(close, commit) }).await;
    assert!(!place.pool.is_closed());
    let refused = store.append(&late, ExpectedVersion::Any, events(1)).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    assert!(store.begin_transaction().await.is_err());
    assert_eq!(place.sessions().await.len(), 3);
    let again = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    assert_eq!((read(&again, &last).await.len(), read(&again, &late).await.len()), (1, 0));
}

#[tokio::test]
async fn a_store_that_is_dropped_leaves_the_pool_and_all_its_connections() {
    let place = Place::new(3).await;
    let store = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    add(&store, &stream(), 1).await;
    drop(store);
    assert_eq!(place.sessions().await.len(), 3);
}

#[tokio::test]
async fn closing_the_pool_ends_the_store() {
    let place = Place::new(3).await;
    let store = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    add(&store, &stream(), 1).await;
    within(place.pool.close()).await;
    let refused = store.append(&stream(), ExpectedVersion::Any, events(1)).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable(_)), "{refused}");
    within(store.close()).await;
    // backends end a moment after their connections
    within(async { while place.connections().await > 0 {} }).await;
}

#[tokio::test]
async fn stores_on_two_pools_wake_each_other() {
    let place = Place::new(3).await;
    let here = within(PgEventStore::on(place.pool.clone())).await.unwrap();
    let second = PgPoolOptions::new().max_connections(3).connect(&place.database.url()).await.unwrap();
    let there = within(PgEventStore::on(second.clone())).await.unwrap();
    // the first wakes may be those of a listener that has just connected
    for _ in 0..4 {
        let mut watch = there.appended().watch();
        add(&here, &stream(), 1).await;
        within(watch.appended()).await;
    }
    second.close().await;
}

/// Processes that begin at once, on pools of one connection and on connections of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_stores_may_begin_at_once_on_small_pools() {
    let database = TestDatabase::create("").await;
    let mut stores = JoinSet::new();
    for number in 0..8 {
        let (url, config) = (database.url(), database.config());
        stores.spawn(async move {
            if number % 2 == 0 {
                return common::open(config).await;
            }
            let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
            let [.., (_, config)] = smallest();
            PgEventStore::on_with(pool, config).await.unwrap()
        });
    }
    // and two on one connection
    let pool = PgPoolOptions::new().max_connections(1).connect(&database.url()).await.unwrap();
    for _ in 0..2 {
        let [.., (_, config)] = smallest();
        stores.spawn({
            let pool = pool.clone();
            async move { PgEventStore::on_with(pool, config).await.unwrap() }
        });
    }
    let stores = within(stores.join_all()).await;
    for store in &stores {
        add(store, &stream(), 1).await;
    }
    assert_eq!(feed(&stores[0]).await.len(), stores.len());
}

/// Appends beside its transaction, as handlers that drive a process do.
#[handler]
async fn copies(
    _event: &Counted,
    State(store): State<PgEventStore>,
    connection: &mut PgConnection,
) -> Result<(), eventbus::BoxError> {
    sqlx::query("INSERT INTO notes DEFAULT VALUES").execute(&mut *connection).await?;
    store.append(&stream(), ExpectedVersion::NoStream, events(1)).await?;
    store.append_in(connection, &stream(), ExpectedVersion::NoStream, events(1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_works_and_shuts_down_on_the_smallest_pool() {
    const SAVES: usize = 30;
    for (connections, config) in smallest().into_iter().take(2) {
        let place = Place::new(connections).await;
        place.pool.execute("CREATE TABLE rows (id serial)").await.unwrap();
        place.pool.execute("CREATE TABLE notes (id serial)").await.unwrap();
        let store = place.store(config).await;
        let app = App::builder().store(store.clone()).state(store.clone()).discover().start().await.unwrap();
        let saves: JoinSet<_> = (0..SAVES)
            .map(|_| {
                let counters = app.repository::<Counter>();
                async move { counters.upsert(&AggregateId::new(), |_| Ok::<_, Never>(Counted {})).await.unwrap() }
            })
            .collect();
        let _ = within(saves.join_all()).await;
        within(app.settled()).await.unwrap();
        app.rebuild::<counter::InRows>().await.unwrap();
        within(app.shutdown(NOT_LONG)).await.unwrap();
        within(store.close()).await;
        for table in ["rows", "notes"] {
            let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
            let count: i64 = sqlx::query_scalar(sql).fetch_one(&place.pool).await.unwrap();
            assert_eq!(usize::try_from(count).unwrap(), SAVES, "{table}");
        }
        let again = place.store(PgOnPoolConfig { notify: false, ..PgOnPoolConfig::default() }).await;
        let all: Vec<_> = again.read_all(Position::START).try_collect().await.unwrap();
        assert_eq!(all.len(), 3 * SAVES);
    }
}
