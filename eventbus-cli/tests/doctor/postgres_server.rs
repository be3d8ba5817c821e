//! Settings and the state of a PostgreSQL server, broken on a server of these tests' own.

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use eventbus::testkit::ManualClock;
use eventbus_cli::doctor::{CheckFinding, Doctor, DoctorConfig, Severity::*};
use eventstore_postgres::{
    PgEventStore,
    sqlx::{self, Connection as _, Executor as _, PgConnection},
};
use tokio::sync::{Mutex, MutexGuard};

use super::common::{
    Store, assert_finding, config, expect_finding, expect_findings, expect_healthy, pool, redis, run_sql, until,
};

/// A server of these tests: one test at a time changes its settings.
pub(crate) struct Server {
    url: &'static str,
    _alone: MutexGuard<'static, ()>,
}

impl Server {
    pub(crate) async fn lock() -> Self {
        const ARGUMENTS: [&str; 6] =
            ["-c", "max_prepared_transactions=5", "-c", "archive_mode=on", "-c", "max_connections=20"];
        static SERVER: OnceLock<eventbus_test::PrivatePostgres> = OnceLock::new();
        static ALONE: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
        // the settings of a server are one for all tests
        let alone = ALONE.lock().await;
        let url = SERVER.get_or_init(|| eventbus_test::private_postgres_with(&ARGUMENTS)).url();
        Self { url, _alone: alone }
    }

    pub(crate) fn url(&self) -> &'static str {
        self.url
    }

    pub(crate) fn doctor(&self) -> Doctor {
        Doctor::new().config(config()).postgres(pool(self.url), "eventbus")
    }

    /// Returns the URL of a different database of the server.
    pub(crate) fn database(&self, name: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').unwrap();
        format!("{server}/{name}")
    }

    /// Sets a setting of the server, and waits until new sessions have it.
    pub(crate) async fn set(&self, name: &str, value: &str) {
        run_sql(self.url, &format!("ALTER SYSTEM SET {name} = {value}")).await;
        self.reload(name, value.trim_matches('\'')).await;
    }

    pub(crate) async fn reset(&self, name: &str, value: &str) {
        run_sql(self.url, &format!("ALTER SYSTEM RESET {name}")).await;
        self.reload(name, value).await;
    }

    async fn reload(&self, name: &str, value: &str) {
        run_sql(self.url, "SELECT pg_reload_conf()").await;
        until("the server has the setting", async || {
            let mut connection = PgConnection::connect(self.url).await.unwrap();
            let query = sqlx::query_scalar("SELECT current_setting($1)").bind(name.to_owned());
            let now: String = query.fetch_one(&mut connection).await.unwrap();
            now == value
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_the_store_refuses_is_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-server").await;
    run_sql(server.url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0").await;
    let url = server.database("ascii");
    let of_database = Doctor::new().config(config()).postgres(pool(&url), "eventbus");
    expect_finding(&of_database, "pg-server", Fault, "encoding of the database is SQL_ASCII").await;
    run_sql(server.url, "CREATE DATABASE frozen").await;
    run_sql(server.url, "ALTER DATABASE frozen SET default_transaction_read_only = on").await;
    let url = server.database("frozen");
    let of_database = Doctor::new().config(config()).postgres(pool(&url), "eventbus");
    let found = expect_finding(&of_database, "pg-server", Fault, "read-only by default").await;
    // a shell sends one statement after the other
    let (_, statements) = found.finding.repair.split_once(" by ").unwrap();
    let mut shell = PgConnection::connect(&url).await.unwrap();
    for statement in statements.split("; ") {
        let ran = shell.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))).await;
        ran.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    expect_healthy(&Doctor::new().config(config()).postgres(pool(&url), "eventbus"), "pg-server").await;
}

#[tokio::test]
async fn commits_that_do_not_wait_are_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-sync-commit").await;
    server.set("synchronous_commit", "off").await;
    expect_finding(&server.doctor(), "pg-sync-commit", Fault, "source: configuration file").await;
    server.reset("synchronous_commit", "on").await;
    run_sql(server.url, "CREATE ROLE hasty; ALTER ROLE hasty IN DATABASE postgres SET synchronous_commit = off").await;
    let found = expect_finding(&server.doctor(), "pg-sync-commit", Fault, "role `hasty` in database `postgres`").await;
    run_sql(server.url, &found.finding.repair).await;
    expect_healthy(&server.doctor(), "pg-sync-commit").await;
    for (of, text) in [
        ("ROLE ALL", "is off for all roles"),
        ("ROLE hasty", "is off for role `hasty`"),
        ("DATABASE postgres", "is off for database `postgres`"),
    ] {
        run_sql(server.url, &format!("ALTER {of} SET synchronous_commit = off")).await;
        let found = expect_finding(&server.doctor(), "pg-sync-commit", Fault, text).await;
        run_sql(server.url, &found.finding.repair).await;
        expect_healthy(&server.doctor(), "pg-sync-commit").await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_sync_is_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-fsync").await;
    // the tests' own command line would win
    let shared = Store::new().await;
    let report = expect_findings(&shared.doctor(), "pg-fsync").await;
    let settings: Vec<_> = report.findings().iter().map(|found| &found.finding.observed["setting"]).collect();
    assert_eq!(settings, ["fsync", "full_page_writes"], "{report}");
    for found in report.findings() {
        let setting = found.finding.observed["setting"].as_str().unwrap();
        let repair = format!("remove `{setting}` from the command line of the server");
        assert!(found.finding.repair.starts_with(&repair), "{report}");
    }
}

#[tokio::test]
async fn a_transaction_that_stays_open_is_found() {
    let store = Store::new().await;
    let mut left = PgConnection::connect(store.url()).await.unwrap();
    left.execute("SET application_name = 'shell'; BEGIN; SELECT count(*) FROM eventbus.events").await.unwrap();
    expect_healthy(&store.doctor(), "pg-long-transaction").await;
    let strict = store.doctor().config(DoctorConfig { long_transaction: Duration::ZERO, ..config() });
    let report = expect_findings(&strict, "pg-long-transaction").await;
    // other tests may have a transaction on the server at this moment
    let of_shell = report.findings().iter().find(|found| format!("{found:?}").contains("`shell`"));
    assert_finding(of_shell.expect("it is found"), "pg-long-transaction", Warning, "`shell`");
}

#[tokio::test]
async fn an_append_that_stays_open_is_found() {
    let store = Store::new().await;
    let events = PgEventStore::connect(store.url()).await.unwrap();
    let mut transaction = events.begin_transaction().await.unwrap();
    let event = eventbus::NewEvent::new(eventbus::Name::from_static("Deposited"), 1, "{}");
    let stream = eventbus::StreamId::parse("Account", "eve").unwrap();
    events.append_in(transaction.connection(), &stream, eventbus::ExpectedVersion::Any, vec![event]).await.unwrap();
    expect_healthy(&store.doctor(), "pg-open-append").await;
    let strict = store.doctor().config(DoctorConfig { open_append: Duration::ZERO, ..config() });
    let found = expect_finding(&strict, "pg-open-append", Fault, "that has appended events").await;
    store.run(&found.finding.repair).await;
    until("the append has ended", async || {
        strict.clone().only(["pg-open-append"]).unwrap().run().await.findings().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_prepared_transaction_is_found() {
    let server = Server::lock().await;
    run_sql(server.url, "BEGIN; CREATE TABLE left_behind (); PREPARE TRANSACTION 'left'").await;
    expect_healthy(&server.doctor(), "pg-prepared").await;
    let strict = server.doctor().config(DoctorConfig { prepared_transaction: Duration::ZERO, ..config() });
    let found = expect_finding(&strict, "pg-prepared", Fault, "the prepared transaction `left`").await;
    run_sql(server.url, &found.finding.repair).await;
    expect_healthy(&strict, "pg-prepared").await;
}

#[tokio::test]
async fn connections_that_are_used_up_are_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-connections").await;
    let mut sleepers = Vec::new();
    for _ in 0..14 {
        sleepers.push(PgConnection::connect(server.url).await.unwrap());
    }
    // of 20, of which 3 are for superusers
    let doctor = server.doctor();
    until("the server has counted", async || {
        !doctor.clone().only(["pg-connections"]).unwrap().run().await.findings().is_empty()
    })
    .await;
    expect_finding(&doctor, "pg-connections", Warning, "of 17 connections are in use").await;
    drop(sleepers);
}

#[tokio::test]
async fn rows_that_vacuum_has_not_frozen_are_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-transaction-ids").await;
    let burn = "DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$";
    run_sql(server.url, burn).await;
    let strict = server.doctor().config(DoctorConfig { transaction_id_age: 290, ..config() });
    let report = expect_findings(&strict, "pg-transaction-ids").await;
    let databases: Vec<_> = report.findings().iter().map(|found| &found.finding.observed["database"]).collect();
    assert!(databases.iter().any(|name| *name == "postgres"), "{report}");
}

#[tokio::test]
async fn clocks_that_differ_are_found() {
    let (store, server) = (Store::new().await, eventbus_test::redis());
    let connection = redis(server.url()).await;
    let with_clock_off_by = |hours: i64| {
        let now = eventbus::clock::SharedClock::SYSTEM.now();
        let clock = ManualClock::at(now + time::Duration::hours(hours));
        let config = DoctorConfig { clock: clock.into(), ..config() };
        store.doctor().redis(connection.clone()).config(config)
    };
    expect_healthy(&store.doctor().redis(connection.clone()), "pg-clock").await;
    expect_healthy(&store.doctor().redis(connection.clone()), "redis-clock").await;
    expect_finding(&with_clock_off_by(-1), "pg-clock", Warning, "s ahead of this machine's").await;
    expect_finding(&with_clock_off_by(1), "redis-clock", Warning, "s behind this machine's").await;
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_found() {
    let (store, server) = (Store::new().await, eventbus_test::private_redis());
    let connection = redis(server.url()).await;
    let doctor = store.doctor().redis(connection);
    let full = |share| doctor.clone().config(DoctorConfig { free_disk_share: share, ..config() });
    expect_healthy(&doctor, "pg-disk").await;
    expect_healthy(&doctor, "redis-disk").await;
    // no disk is free to that share
    let of_postgres = expect_finding(&full(8.0), "pg-disk", Fault, "of the disk of").await;
    let of_redis = expect_finding(&full(8.0), "redis-disk", Fault, "of the disk of").await;
    let half_full = |found: &CheckFinding| {
        let bytes = |name: &str| found.finding.observed[name].as_f64().unwrap();
        full(2.0 * bytes("free_bytes") / bytes("size_bytes"))
    };
    expect_finding(&half_full(&of_postgres), "pg-disk", Warning, "of the disk of").await;
    expect_finding(&half_full(&of_redis), "redis-disk", Warning, "of the disk of").await;
}

#[tokio::test]
async fn autovacuum_that_is_off_for_the_server_is_found() {
    let server = Server::lock().await;
    run_sql(server.url, "DROP DATABASE IF EXISTS vacuumed").await;
    run_sql(server.url, "CREATE DATABASE vacuumed").await;
    let url = server.database("vacuumed");
    PgEventStore::connect(&url).await.unwrap().close().await;
    let doctor = Doctor::new().config(config()).postgres(pool(&url), "eventbus");
    expect_healthy(&doctor, "pg-autovacuum").await;
    server.set("autovacuum", "off").await;
    expect_finding(&doctor, "pg-autovacuum", Warning, "`autovacuum` is off").await;
    server.reset("autovacuum", "on").await;
}

#[tokio::test]
async fn commits_that_wait_for_a_missing_standby_are_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-sync-standby").await;
    server.set("synchronous_standby_names", "'faraway'").await;
    expect_finding(&server.doctor(), "pg-sync-standby", Fault, "`faraway`").await;
    server.set("synchronous_standby_names", "'ANY 2 (one, two, three)'").await;
    expect_finding(&server.doctor(), "pg-sync-standby", Fault, "and 0 such standbys are connected").await;
    server.reset("synchronous_standby_names", "").await;
    expect_healthy(&server.doctor(), "pg-sync-standby").await;
}

#[tokio::test]
async fn a_slot_without_a_reader_is_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-slot").await;
    run_sql(server.url, "SELECT pg_create_physical_replication_slot('gone', true)").await;
    let found = expect_finding(&server.doctor(), "pg-slot", Warning, "the replication slot `gone`").await;
    let (drop, _) = found.finding.repair.split_once("or ").unwrap().1.split_once(';').unwrap();
    run_sql(server.url, drop).await;
    expect_healthy(&server.doctor(), "pg-slot").await;
}

#[tokio::test]
async fn an_archive_that_fails_is_found() {
    let server = Server::lock().await;
    expect_healthy(&server.doctor(), "pg-archive").await;
    server.set("archive_command", "'false'").await;
    run_sql(server.url, "CREATE TABLE IF NOT EXISTS filler (); SELECT pg_switch_wal()").await;
    let doctor = server.doctor();
    until("the archive has failed", async || {
        !doctor.clone().only(["pg-archive"]).unwrap().run().await.findings().is_empty()
    })
    .await;
    expect_finding(&doctor, "pg-archive", Warning, "the archive fails").await;
}

#[tokio::test]
async fn a_database_without_a_copy_is_noted() {
    let server = Server::lock().await;
    // it has an archive
    expect_healthy(&server.doctor(), "pg-single-copy").await;
    drop(server);
    let store = Store::new().await;
    expect_finding(&store.doctor(), "pg-single-copy", Note, "no standby and no archive").await;
}
