//! A PostgreSQL whose tables are locked, whose disk is full, whose connections are killed and transactions refused.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use eventbus::{App, prelude::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};

use super::{
    DatabaseFault, Deposited, FaultDurations, FaultScenario, SHUTDOWN_TIMEOUT, disk::SmallDisk, run_faults, wait_until,
};
use crate::fire::{
    HarnessError,
    database::{self, DEADLOCKS_SQL, Database},
    run_summary::RunSummary,
};

/// Application name of the app's sessions; the fault kills sessions of that name.
const APPLICATION_NAME: &str = "faults";

/// Set while handler and projection lock the same rows in different orders.
#[derive(Debug, Clone, Default)]
struct DeadlockSwitch(Arc<AtomicBool>);

impl DeadlockSwitch {
    async fn lock(&self, rows: [&str; 2], connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.0.load(SeqCst) {
            for row in rows {
                let lock = "UPDATE public.totals SET events = events + 1 WHERE name = $1";
                sqlx::query(lock).bind(row).execute(&mut *connection).await?;
            }
        }
        Ok(())
    }
}

#[handler(manual, group = "notes")]
async fn note(
    event: &Deposited,
    meta: &Metadata,
    connection: &mut PgConnection,
    State(crossing): State<DeadlockSwitch>,
) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO public.notes (id, amount, filling) VALUES ($1, $2, repeat('x', 500))";
    sqlx::query(insert).bind(meta.event_id().as_uuid()).bind(event.amount).execute(&mut *connection).await?;
    crossing.lock(["a", "b"], connection).await
}

#[derive(Default)]
struct PostgresRows;

#[projection(name = "rows", manual)]
impl PostgresRows {
    async fn deposited(
        &self,
        event: &Deposited,
        meta: &Metadata,
        connection: &mut PgConnection,
        State(crossing): State<DeadlockSwitch>,
    ) -> Result<(), sqlx::Error> {
        let insert = "INSERT INTO public.order_rows (id, amount, filling) VALUES ($1, $2, repeat('x', 500))";
        sqlx::query(insert).bind(meta.event_id().as_uuid()).bind(event.amount).execute(&mut *connection).await?;
        crossing.lock(["b", "a"], connection).await
    }
}

/// No key is unique, so that a row written twice is visible. If no disk can be mounted, the trigger raises the error of
/// a full one; it also raises the conflicts.
const TABLES_SQL: &str = "
    CREATE TABLE public.notes (id uuid, amount bigint, filling text) SPACE;
    CREATE TABLE public.order_rows (id uuid, amount bigint, filling text) SPACE;
    CREATE TABLE public.filler (filling text) SPACE;
    CREATE TABLE public.totals (name text PRIMARY KEY, events bigint);
    INSERT INTO public.totals VALUES ('a', 0), ('b', 0);
    CREATE TABLE public.fault (code text, share float);
    CREATE FUNCTION public.strike() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE struck text;
    BEGIN
        SELECT code INTO struck FROM public.fault WHERE random() < share;
        IF FOUND THEN RAISE EXCEPTION 'a fault on purpose' USING ERRCODE = struck; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER strike BEFORE INSERT ON public.notes FOR EACH ROW EXECUTE FUNCTION public.strike();
    CREATE TRIGGER strike BEFORE INSERT ON public.order_rows FOR EACH ROW EXECUTE FUNCTION public.strike();";

/// A database, and an app with it and a Redis bus.
pub(super) struct PostgresScenario {
    app: App,
    admin: PgConnection,
    deadlock_switch: DeadlockSwitch,
    has_disk: bool,
}

/// Runs all faults against a PostgreSQL.
pub(super) async fn run(lasting: FaultDurations, seed: u64) -> Result<RunSummary, HarnessError> {
    let database = Database::create().await?;
    let disk = SmallDisk::mount(lasting.disk)?;
    let space = eventbus_test::unique_name("small");
    let mut figures = RunSummary::new("faults");
    let endured = run_in(&database, disk.as_ref().map(|disk| (disk, &*space)), lasting, seed, &mut figures).await;
    database.remove().await?;
    if disk.is_some() && !database::keeps_artifacts() {
        let mut admin = <PgConnection as sqlx::Connection>::connect(eventbus_test::postgres_url()).await?;
        database::execute_sql(&mut admin, &format!("DROP TABLESPACE {space}")).await?;
    }
    endured?;
    let full = if disk.is_some() { "full" } else { "said to be full, as none could be mounted" };
    figures.description =
        format!("tables locked, disk {full}, sessions killed, conflicts, deadlocks; Redis full, read-only");
    Ok(figures)
}

async fn run_in(
    database: &Database,
    disk: Option<(&SmallDisk, &str)>,
    lasting: FaultDurations,
    seed: u64,
    figures: &mut RunSummary,
) -> Result<(), HarnessError> {
    let redis = eventbus_test::private_redis();
    let url = format!("{}?application_name={APPLICATION_NAME}", database.url());
    let store = PgEventStore::connect_with(PgEventStoreConfig { database_url: url, ..Default::default() }).await?;
    let mut admin = database.connection("auditor").await?;
    if let Some((disk, space)) = disk {
        let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut admin).await?;
        disk.give_to_owner_of(&folder)?;
        database::execute_sql(&mut admin, &format!("CREATE TABLESPACE {space} LOCATION '{}'", disk.path().display()))
            .await?;
    }
    let space = disk.map_or_else(String::new, |(_, space)| format!("TABLESPACE {space}"));
    database::execute_sql(&mut admin, &TABLES_SQL.replace("SPACE", &space)).await?;
    let config = RedisEventBusConfig { redis_url: redis.url().into(), ..RedisEventBusConfig::default() };
    let crossing = DeadlockSwitch::default();
    let builder = App::builder().store(store).bus(RedisEventBus::connect(config).await?).state(crossing.clone());
    let app = builder.handler::<note>().projection(PostgresRows).start().await?;
    let mut scenario = PostgresScenario { app, admin, deadlock_switch: crossing, has_disk: disk.is_some() };
    run_faults(&mut scenario, lasting, seed, figures).await?;
    if scenario.count(DEADLOCKS_SQL).await? == 0 {
        figures.failures.push("there was no deadlock".into());
    }
    scenario.app.shutdown(SHUTDOWN_TIMEOUT).await?;
    Ok(())
}

impl PostgresScenario {
    async fn execute(&mut self, sql: &str) -> Result<(), HarnessError> {
        database::execute_sql(&mut self.admin, sql).await
    }

    async fn count(&mut self, sql: &'static str) -> Result<u64, HarnessError> {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.admin).await?;
        Ok(count.try_into()?)
    }
}

impl FaultScenario for PostgresScenario {
    const FAULTS: &'static [DatabaseFault] = &[
        DatabaseFault::Locked,
        DatabaseFault::Full,
        DatabaseFault::Killed,
        DatabaseFault::Conflicts,
        DatabaseFault::Deadlocks,
    ];

    fn app(&self) -> &App {
        &self.app
    }

    async fn inject(&mut self, fault: DatabaseFault) -> Result<(), HarnessError> {
        match fault {
            DatabaseFault::Locked => {
                let lock = "BEGIN; LOCK TABLE public.notes, public.order_rows IN ACCESS EXCLUSIVE MODE";
                self.execute(lock).await
            }
            DatabaseFault::Full if self.has_disk => {
                // a failed statement keeps the disk space that it took, so smaller ones follow
                for rows in [1_000, 100, 10, 1] {
                    let fill = format!(
                        "INSERT INTO public.filler SELECT string_agg(md5(random()::text), '')
                         FROM generate_series(1, 50 * {rows}) number GROUP BY number % {rows}"
                    );
                    while self.execute(&fill).await.is_ok() {}
                }
                Ok(())
            }
            DatabaseFault::Full => self.execute("INSERT INTO public.fault VALUES ('53100', 1)").await,
            DatabaseFault::Conflicts => self.execute("INSERT INTO public.fault VALUES ('40001', 0.7)").await,
            DatabaseFault::Deadlocks => {
                self.deadlock_switch.0.store(true, SeqCst);
                Ok(())
            }
            DatabaseFault::Killed | DatabaseFault::OutOfMemory | DatabaseFault::ReadOnly => Ok(()),
        }
    }

    async fn sustain(&mut self, fault: DatabaseFault) -> Result<(), HarnessError> {
        if fault == DatabaseFault::Killed {
            let kill = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = '{APPLICATION_NAME}' AND random() < 0.2"
            );
            self.execute(&kill).await?;
        }
        Ok(())
    }

    async fn repair(&mut self, fault: DatabaseFault) -> Result<(), HarnessError> {
        match fault {
            DatabaseFault::Locked => self.execute("COMMIT").await,
            DatabaseFault::Full if self.has_disk => self.execute("DROP TABLE public.filler").await,
            DatabaseFault::Full | DatabaseFault::Conflicts => self.execute("DELETE FROM public.fault").await,
            DatabaseFault::Deadlocks => {
                // on a busy machine the transactions may not have met yet
                wait_until(async || Ok(self.count(DEADLOCKS_SQL).await? > 0)).await?;
                self.deadlock_switch.0.store(false, SeqCst);
                Ok(())
            }
            DatabaseFault::Killed | DatabaseFault::OutOfMemory | DatabaseFault::ReadOnly => Ok(()),
        }
    }

    async fn count_stored(&mut self) -> Result<u64, HarnessError> {
        self.count("SELECT count(*) FROM events").await
    }

    async fn count_written(&mut self) -> Result<u64, HarnessError> {
        let written = "SELECT least((SELECT count(*) FROM public.notes), (SELECT count(*) FROM public.order_rows))";
        self.count(written).await
    }

    async fn count_wrong(&mut self) -> Result<u64, HarnessError> {
        self.count(
            "SELECT count(*) FROM events
             LEFT JOIN (SELECT id, count(*) AS rows FROM public.notes GROUP BY id) n ON n.id = event_id
             LEFT JOIN (SELECT id, count(*) AS rows FROM public.order_rows GROUP BY id) r ON r.id = event_id
             WHERE n.rows IS DISTINCT FROM 1 OR r.rows IS DISTINCT FROM 1",
        )
        .await
    }
}
