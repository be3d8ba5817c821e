//! Stores and buses to break, and what the doctor finds there.
//!
//! The functions `expect_..` and the methods `broken_by` take the name of a check as their second argument. A test writes it
//! there as a literal: `catalog` reads those calls, to find checks without a test.

use std::time::{Duration, Instant};

use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, store::AppendEvents};
use eventbus_cli::doctor::{CheckFinding, Doctor, DoctorConfig, Report, Severity};
use eventbus_redis::{
    RedisEventBusConfig,
    redis::{Cmd, FromRedisValue, Value, aio::MultiplexedConnection, cmd},
};
use eventstore_postgres::{
    PgEventStore,
    sqlx::{
        self, AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool,
        postgres::{PgConnectOptions, PgPoolOptions},
    },
};

/// The default thresholds, but for the disk of the machine that runs the tests, which may be full.
pub(crate) fn config() -> DoctorConfig {
    DoctorConfig { free_disk_share: 0.0, ..Default::default() }
}

/// Returns the block of SECURITY.md in a language whose first line begins with a text.
pub(crate) fn of_security_page(language: &str, begin: &str) -> &'static str {
    let blocks = include_str!("../../../SECURITY.md").split("```");
    let mut blocks = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    blocks.find(|block| block.starts_with(begin)).unwrap_or_else(|| panic!("the page has no `{begin}`"))
}

/// Creates the Redis user of an operator with the rights of SECURITY.md for a prefix, and returns the URL with it.
pub(crate) async fn redis_operator(admin: &MultiplexedConnection, url: &str, prefix: &str) -> String {
    send(admin, &of_security_page("text", "ACL SETUSER operator").replace("bank", prefix)).await;
    url.replace("redis://", "redis://operator:password@")
}

/// A pool as a tool has it.
pub(crate) fn pool(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(20)).connect_lazy_with(options)
}

/// Runs statements on a connection of their own.
pub(crate) async fn run_sql(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let ran = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    ran.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.unwrap();
}

/// Appends events to a stream.
pub(crate) async fn append(store: &impl AppendEvents, id: &str, count: usize) {
    let event = || NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
    let events = std::iter::repeat_with(event).take(count).collect();
    let stream = StreamId::parse("Account", id).unwrap();
    store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
}

/// A store on PostgreSQL with three events in two streams, on a server that tests share.
pub(crate) struct Store {
    database: eventbus_test::Postgres,
    pool: PgPool,
}

impl Store {
    pub(crate) async fn new() -> Self {
        let database = eventbus_test::postgres();
        let store = PgEventStore::connect(database.url()).await.unwrap();
        append(&store, "ada", 2).await;
        append(&store, "bob", 1).await;
        store.close().await;
        let pool = pool(database.url());
        Self { database, pool }
    }

    pub(crate) fn url(&self) -> &str {
        self.database.url()
    }

    pub(crate) fn doctor(&self) -> Doctor {
        Doctor::new().config(config()).postgres(self.pool.clone(), "eventbus")
    }

    /// Runs statements, in which tables need no schema.
    pub(crate) async fn run(&self, sql: &str) {
        run_sql(self.url(), &format!("SET search_path = eventbus; {sql}")).await;
    }

    /// Fails unless all is well before `sql` breaks the store, and the doctor finds only this afterwards.
    pub(crate) async fn broken_by(&self, sql: &str, check: &str, severity: Severity, text: &str) -> CheckFinding {
        let doctor = self.doctor().deep(true);
        expect_healthy(&doctor, check).await;
        self.run(sql).await;
        expect_only(&doctor, check, severity, text).await
    }
}

/// The configuration of a bus to examine.
pub(crate) fn bus(url: &str, prefix: &str) -> RedisEventBusConfig {
    RedisEventBusConfig { redis_url: url.into(), stream_prefix: prefix.into(), ..RedisEventBusConfig::default() }
}

/// A connection to a Redis server that waits for answers.
pub(crate) async fn redis(url: &str) -> MultiplexedConnection {
    eventbus_test::internal::redis_connection(url).await
}

/// Runs a command, given as one text.
pub(crate) async fn command<T: FromRedisValue>(connection: &MultiplexedConnection, text: &str) -> T {
    let mut parts = text.split_whitespace();
    let mut command = cmd(parts.next().unwrap());
    command.arg(parts.collect::<Vec<_>>());
    query(connection, &command).await
}

pub(crate) async fn query<T: FromRedisValue>(connection: &MultiplexedConnection, command: &Cmd) -> T {
    command.query_async(&mut connection.clone()).await.unwrap()
}

/// Runs a command, and discards its reply.
pub(crate) async fn send(connection: &MultiplexedConnection, text: &str) {
    let _: Value = command(connection, text).await;
}

/// What tests on the shared PostgreSQL server find besides: it syncs no writes.
const OF_SHARED_SERVER: &str = "pg-fsync";

/// Returns the faults and warnings of a report.
pub(crate) fn serious(report: &Report) -> Vec<&CheckFinding> {
    let is_serious =
        |found: &&CheckFinding| found.finding.severity != Severity::Note && found.check != OF_SHARED_SERVER;
    report.findings().iter().filter(is_serious).collect()
}

/// Fails unless a check finds all well.
pub(crate) async fn expect_healthy(doctor: &Doctor, check: &str) {
    let report = doctor.clone().only([check]).unwrap().run().await;
    assert_eq!(report.healthy(), [check], "{report}");
}

/// Fails unless a check makes findings, of which the caller sees what they are.
pub(crate) async fn expect_findings(doctor: &Doctor, check: &str) -> Report {
    let report = doctor.clone().only([check]).unwrap().run().await;
    assert!(!report.findings().is_empty() && report.findings().iter().all(|found| found.check == check), "{report}");
    report
}

/// Fails unless a check makes one finding, of this severity and with this text.
pub(crate) async fn expect_finding(doctor: &Doctor, check: &str, severity: Severity, text: &str) -> CheckFinding {
    let report = expect_findings(doctor, check).await;
    let [found] = report.findings() else { panic!("{check}: {report}") };
    assert_finding(found, check, severity, text);
    found.clone()
}

/// Fails unless all checks together make one fault or warning, this one, or this note and further notes.
pub(crate) async fn expect_only(doctor: &Doctor, check: &str, severity: Severity, text: &str) -> CheckFinding {
    let report = doctor.run().await;
    let found = match severity {
        Severity::Note => report.findings().iter().find(|found| found.check == check).into_iter().collect(),
        _ => serious(&report),
    };
    let [found] = &found[..] else { panic!("{check}: {report}") };
    assert_finding(found, check, severity, text);
    (*found).clone()
}

pub(crate) fn assert_finding(found: &CheckFinding, check: &str, severity: Severity, text: &str) {
    let finding = &found.finding;
    assert_eq!((found.check, finding.severity), (check, severity), "{found:?}");
    assert!(finding.finding.contains(text), "{text}: {found:?}");
    assert!(!finding.consequence.is_empty() && !finding.repair.is_empty(), "{found:?}");
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
