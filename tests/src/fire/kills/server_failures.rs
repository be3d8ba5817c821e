//! Servers that crash, lose data and return to older data, while processes keep running.

use std::time::{Duration, Instant};

use eventbus::{ExpectedVersion, Position, port::AppendEvents as _, relay::republish};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::{PrivatePostgres, PrivateRedis};
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use sqlx::PgConnection;
use tokio::task::block_in_place;

use super::{
    Program, Scenario, ScenarioKind, child::send_signal, finish_and_audit, process_role::Settings, scenario::connect,
    spawn_workers,
};
use crate::fire::{HarnessError, run_summary::RunSummary, workload};

/// Time without progress of servers or readers after which the run fails.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Interval of the progress check.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Counts the events up to a probe that the readers have not handled; the count falls while they make progress.
const LEFT_BEFORE: &str = "
    SELECT count(*) FROM eventbus.events e, (VALUES ('ledger'), ('inbox')) reader(name)
    WHERE e.position <= (SELECT position FROM eventbus.events WHERE event_id = $1)
      AND NOT EXISTS (SELECT FROM fire.effects f WHERE f.reader = reader.name AND f.event = e.event_id)";

/// The position up to which `inbox` has handled all events.
const ALL_HANDLED_THROUGH: &str = "
    SELECT coalesce(min(e.position) - 1, (SELECT max(position) FROM eventbus.events), 0)
    FROM eventbus.events e
    WHERE NOT EXISTS (SELECT FROM fire.effects f WHERE f.reader = 'inbox' AND f.event = e.event_id)";

/// How far `mail`, whose effects are in no table, may be behind `inbox`.
const MAIL_BEHIND: i64 = 10_000;

/// A failure of a server.
#[derive(Debug, Clone, Copy)]
enum ServerFailure {
    /// `kill -9` of a PostgreSQL backend, so that the server ends all backends and recovers.
    Backend,
    /// PostgreSQL stops at once, and starts again.
    Postgres,
    /// Redis is killed, and starts again.
    Redis,
    /// Redis loses all data, and an operator fills it again.
    Flush,
    /// Redis returns to an older copy, as after a failover to an asynchronous replica.
    OlderCopy,
    /// Redis loses the stream only, and an operator fills it again.
    Stream,
}

const FAULTS: [ServerFailure; 6] = [
    ServerFailure::Backend,
    ServerFailure::Postgres,
    ServerFailure::Redis,
    ServerFailure::Flush,
    ServerFailure::OlderCopy,
    ServerFailure::Stream,
];

/// Lets servers fail repeatedly, and audits the result.
///
/// # Errors
/// If the run itself fails; broken promises are in the summary.
pub async fn fail_servers(
    program: &Program,
    settings: Settings,
    faults: u64,
    seed: u64,
) -> Result<RunSummary, HarnessError> {
    let begin = Instant::now();
    let (postgres, redis) = block_in_place(|| (eventbus_test::private_postgres(), eventbus_test::private_redis()));
    let kind = ScenarioKind { servers_fail: true, settings };
    let scene = Scenario::prepare(postgres.url(), redis.url(), kind).await?;
    let store = PgEventStore::connect(postgres.url()).await?;
    let mut scenario = ServerScenario {
        postgres,
        redis,
        replica: block_in_place(eventbus_test::private_redis),
        scenario: scene,
        store,
    };
    let mut random = Rng::with_seed(seed);
    let writers = [0, 1].map(|number| program.spawn(&scenario.scenario.process_config("writer", seed + number, true)));
    let workers = spawn_workers(program, &scenario.scenario)?;
    let (mut slowest, mut counts) = (Duration::ZERO, [0; FAULTS.len()]);
    scenario.probe().await?;
    for fault in 0..faults {
        let kind = usize::try_from(fault)? % FAULTS.len();
        tokio::time::sleep(Duration::from_millis(random.u64(50..300))).await;
        scenario.inject(FAULTS[kind], &mut random).await?;
        counts[kind] += 1;
        slowest = slowest.max(scenario.probe().await.map_err(|error| format!("after {:?}: {error}", FAULTS[kind]))?);
    }
    for writer in writers {
        writer?.kill().await?;
    }
    let mut figures = RunSummary::new("servers");
    figures.faults = faults;
    figures.description = FAULTS.iter().zip(counts).map(|(fault, count)| format!("{fault:?} {count} ")).collect();
    finish_and_audit(workers, &scenario.scenario, &mut figures).await?;
    figures.slowest_recovery = figures.slowest_recovery.max(Some(slowest));
    Ok(RunSummary { took: begin.elapsed(), ..figures })
}

/// The servers, and the processes that use them.
struct ServerScenario {
    postgres: PrivatePostgres,
    redis: PrivateRedis,
    replica: PrivateRedis,
    scenario: Scenario,
    store: PgEventStore,
}

impl ServerScenario {
    async fn inject(&mut self, fault: ServerFailure, random: &mut Rng) -> Result<(), HarnessError> {
        match fault {
            ServerFailure::Backend => self.kill_backend().await,
            ServerFailure::Postgres => {
                block_in_place(|| self.postgres.stop());
                tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
                block_in_place(|| self.postgres.start());
                Ok(())
            }
            ServerFailure::Redis => {
                block_in_place(|| self.redis.stop());
                tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
                block_in_place(|| self.redis.start());
                Ok(())
            }
            ServerFailure::Flush => {
                self.command(redis::cmd("FLUSHALL")).await?;
                self.fill_again().await
            }
            ServerFailure::Stream => {
                let stream = self.bus_config().stream_name();
                self.command(redis::cmd("DEL").arg(stream).clone()).await?;
                self.fill_again().await
            }
            ServerFailure::OlderCopy => {
                follow(self.replica.url(), Some(self.redis.port())).await?;
                follow(self.replica.url(), None).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(50..400))).await;
                follow(self.redis.url(), Some(self.replica.port())).await?;
                follow(self.redis.url(), None).await
            }
        }
    }

    fn bus_config(&self) -> RedisEventBusConfig {
        super::process_role::bus_config(&self.scenario.process_config("watcher", 0, false))
    }

    /// Does what the alert asks of an operator: publishes the events again that a group may not have.
    async fn fill_again(&self) -> Result<(), HarnessError> {
        let mut connection: PgConnection = self.scenario.connection().await?;
        let handled: i64 = sqlx::query_scalar(ALL_HANDLED_THROUGH).fetch_one(&mut connection).await?;
        let from = handled.saturating_sub(MAIL_BEHIND).max(0);
        let bus = RedisEventBus::connect(self.bus_config()).await?;
        republish(&self.store, &bus, Position::new(from.try_into()?)).await?;
        Ok(())
    }

    async fn kill_backend(&self) -> Result<(), HarnessError> {
        let mut connection = self.scenario.connection().await?;
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                   ORDER BY random() LIMIT 1";
        let pid: i32 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        send_signal(pid.try_into()?, "KILL").await
    }

    async fn command(&self, command: redis::Cmd) -> Result<(), HarnessError> {
        Ok(command.query_async(&mut self.scenario.redis().await?).await?)
    }

    /// Appends an event, and waits until it is handled; returns how long that took.
    ///
    /// The writers may be ahead of the readers, which then handle many earlier events first: fails only if the readers
    /// make no progress.
    async fn probe(&self) -> Result<Duration, HarnessError> {
        let begin = Instant::now();
        let (stream, event) = (workload::stream("probe")?, workload::event(1));
        self.scenario.record_probe(&event)?;
        while let Err(error) = self.store.append(&stream, ExpectedVersion::Any, vec![event.clone()]).await {
            if begin.elapsed() > PROBE_TIMEOUT {
                return Err(error.into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let (mut fewest, mut fell, mut last_check) = (i64::MAX, Instant::now(), Instant::now());
        while !self.is_handled(event.event_id().as_uuid()).await.unwrap_or(false) {
            if last_check.elapsed() > PROGRESS_INTERVAL {
                last_check = Instant::now();
                // the count fails while the database is down
                let left = self.left_before(event.event_id().as_uuid()).await.unwrap_or(fewest);
                if left < fewest {
                    (fewest, fell) = (left, Instant::now());
                }
            }
            if fell.elapsed() > PROBE_TIMEOUT {
                return Err(format!(
                    "the readers made no progress for {PROBE_TIMEOUT:?} with {fewest} events left up to the probe"
                )
                .into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(begin.elapsed())
    }

    async fn left_before(&self, event: eventbus::Uuid) -> Result<i64, HarnessError> {
        let mut connection: PgConnection = self.scenario.connection().await?;
        Ok(sqlx::query_scalar(LEFT_BEFORE).bind(event).fetch_one(&mut connection).await?)
    }

    async fn is_handled(&self, event: eventbus::Uuid) -> Result<bool, HarnessError> {
        let mut connection: PgConnection = self.scenario.connection().await?;
        let sql = "SELECT count(DISTINCT reader) = 2 FROM fire.effects WHERE event = $1";
        Ok(sqlx::query_scalar(sql).bind(event).fetch_one(&mut connection).await?)
    }
}

/// Makes a Redis server a replica of the server at `port`, or a primary.
async fn follow(url: &str, port: Option<u16>) -> Result<(), HarnessError> {
    let mut redis = connect(url).await?;
    let mut replicate = redis::cmd("REPLICAOF");
    match port {
        Some(port) => replicate.arg("127.0.0.1").arg(port),
        None => replicate.arg("NO").arg("ONE"),
    };
    let _: () = replicate.query_async(&mut redis).await?;
    let begin = Instant::now();
    while port.is_some() {
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut redis).await?;
        if info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0") {
            break;
        }
        if begin.elapsed() > PROBE_TIMEOUT {
            return Err("a Redis replica did not get its data".into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
