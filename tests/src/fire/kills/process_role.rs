//! The roles of the killed processes: writers, and workers, which relay, consume and project.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::{
    App, DomainEvent, EventId, ExpectedVersion, HandlerError, Metadata, State, Uuid, handler, port::Append, projection,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::fire::{
    HarnessError,
    failpoints::{CrashPoint, FailPointBus, FailPointStore, FailPoints},
    history::{AppendRecord, HistoryEntry, HistoryWriter},
    role::Role,
    workload::{self, ids},
};

/// The settings of a child process, apart from addresses and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settings {
    /// The defaults.
    Default,
    /// Leases and timeouts of seconds and four workers per consumer: a run of seconds sees many takeovers.
    Short,
}

impl Settings {
    /// Returns the time that the leases of relay and projection last after their owner's last renewal.
    #[must_use]
    pub const fn lease(self) -> Duration {
        match self {
            Self::Default => Duration::from_secs(10),
            Self::Short => Duration::from_secs(1),
        }
    }
}

/// The configuration of a child process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// Set for a writer, unset for a worker.
    pub writes: bool,
    /// The database.
    pub store: String,
    /// The Redis server.
    pub redis: String,
    /// The prefix of the stream.
    pub prefix: String,
    /// The consumer's name.
    pub name: String,
    /// The file of records.
    pub notes: PathBuf,
    /// Seed of every random choice.
    pub seed: u64,
    /// The fail point at which the process dies.
    pub death: Option<CrashPoint>,
    /// Set if a worker repeatedly rebuilds a projection.
    pub rebuilds: bool,
    /// Set if servers fail, unset if processes do.
    pub servers_fail: bool,
    /// The settings.
    pub settings: Settings,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    amount: i64,
}

impl ProcessConfig {
    /// Returns `true` if `mail` can never handle an event of this amount. A server that loses data would lose the dead
    /// letters too, so there are none in such runs.
    #[must_use]
    pub const fn is_poison(&self, amount: i64) -> bool {
        !self.servers_fail && amount.rem_euclid(50) == 7
    }
}

/// The state that handlers share.
#[derive(Debug, Clone)]
struct HandlerContext {
    history: Arc<HistoryWriter>,
    fail_points: FailPoints,
    config: Arc<ProcessConfig>,
}

/// A handler without a transaction: its effect is a record.
#[handler(group = "mail", manual)]
async fn mail(event: &Deposited, meta: &Metadata, State(context): State<HandlerContext>) -> Result<(), HandlerError> {
    if context.config.is_poison(event.amount) {
        return Err(HandlerError::permanent("poison"));
    }
    let note =
        async || context.history.append(&HistoryEntry::Handled { reader: "mail".into(), event: uuid(meta), epoch: 0 });
    context.fail_points.around("handle", note()).await?;
    context.fail_points.crash_after_delay("ack");
    Ok(())
}

/// A handler in the store's transaction: its effect is a row.
#[handler(group = "inbox", manual)]
async fn inbox(
    _event: &Deposited,
    meta: &Metadata,
    State(context): State<HandlerContext>,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    context.fail_points.around("effect", effect(connection, "inbox", meta)).await
}

/// A projection in the store's transaction: its effects are rows, and a read model.
#[derive(Debug)]
struct Ledger;

#[projection(name = "ledger", manual)]
impl Ledger {
    async fn deposited(
        &self,
        event: &Deposited,
        meta: &Metadata,
        State(context): State<HandlerContext>,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        context.fail_points.around("effect", effect(connection, "ledger", meta)).await?;
        let fold = sqlx::query(FOLD_SQL).bind(meta.stream().to_string()).bind(event.amount);
        fold.execute(connection).await.map(drop)
    }
}

/// A projection that is rebuilt.
#[derive(Debug)]
struct Balances;

#[projection(name = "balances", tables("balances", "balanced"), manual)]
impl Balances {
    async fn deposited(
        &self,
        event: &Deposited,
        meta: &Metadata,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO balanced (event) VALUES ($1)").bind(uuid(meta)).execute(&mut *connection).await?;
        let fold = sqlx::query(BALANCE_SQL).bind(meta.stream().to_string()).bind(event.amount);
        fold.execute(connection).await.map(drop)
    }
}

const BALANCE_SQL: &str = "
    INSERT INTO balances AS b (stream, events, total, digest) VALUES ($1, 1, $2, $2 % 1000003)
    ON CONFLICT (stream) DO UPDATE
    SET events = b.events + 1, total = b.total + $2, digest = (b.digest * 31 + $2) % 1000003";

const EFFECT_SQL: &str = "INSERT INTO fire.effects (reader, event) VALUES ($1, $2)";

const FOLD_SQL: &str = "
    INSERT INTO fire.ledger AS l (stream, events, total, digest) VALUES ($1, 1, $2, $2 % 1000003)
    ON CONFLICT (stream) DO UPDATE
    SET events = l.events + 1, total = l.total + $2, digest = (l.digest * 31 + $2) % 1000003";

async fn effect(connection: &mut PgConnection, reader: &str, meta: &Metadata) -> Result<(), sqlx::Error> {
    sqlx::query(EFFECT_SQL).bind(reader).bind(uuid(meta)).execute(connection).await.map(drop)
}

fn uuid(meta: &Metadata) -> Uuid {
    EventId::as_uuid(meta.event_id())
}

impl Role for ProcessConfig {
    const VARIABLE: &'static str = "FIRE_KILLS";

    async fn play(self) -> Result<(), HarnessError> {
        init_log(&self.name)?;
        let fail_points = FailPoints::new(self.death.clone());
        let store = FailPointStore::new(connect(&self).await, fail_points.clone());
        let history = HistoryWriter::open(&self.notes)?;
        if self.writes {
            run_writer(&self, &store, &history).await
        } else {
            run_worker(&self, store, history, fail_points).await
        }
    }
}

/// With `FIRE_LOG` set, the process logs to a file in that folder.
pub(in crate::fire) fn init_log(name: &str) -> Result<(), HarnessError> {
    let Some(folder) = std::env::var_os("FIRE_LOG") else { return Ok(()) };
    let file = PathBuf::from(folder).join(format!("{name}-{}.log", std::process::id()));
    let file = std::fs::File::create(file)?;
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_writer(file)
        .init();
    Ok(())
}

/// Connects to the store; retries, because servers may be down in the run.
async fn connect(process_config: &ProcessConfig) -> PgEventStore {
    let default =
        PgEventStoreConfig { database_url: process_config.store.clone(), migrate: false, ..Default::default() };
    let config = match process_config.settings {
        Settings::Default => default,
        Settings::Short => PgEventStoreConfig {
            max_connections: 8,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(5),
            ..default
        },
    };
    loop {
        match PgEventStore::connect_with(config.clone()).await {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The longest pause of a writer.
const MOST_PAUSE: Duration = Duration::from_millis(500);

async fn run_writer(
    process_config: &ProcessConfig,
    store: &FailPointStore,
    history: &HistoryWriter,
) -> Result<(), HarnessError> {
    let mut random = Rng::with_seed(process_config.seed);
    loop {
        let append = Append {
            stream: workload::stream(random.u64(..30))?,
            expected: ExpectedVersion::Any,
            events: workload::events(&mut random, 1..=3),
        };
        let mut notes = workload::AppendLog::default();
        history.append(&HistoryEntry::Told(AppendRecord::Sent(ids(&append.events))))?;
        let begin = Instant::now();
        notes.append(store, &append).await?;
        // a slow append means slow handling: the pause lets the readers keep up on a busy machine
        let pause = (begin.elapsed() * 4).min(MOST_PAUSE).max(Duration::from_millis(random.u64(10..40)));
        // the first record was written before the append; each further one adds a repeat or an answer
        for record in notes.records.into_iter().skip(1) {
            history.append(&HistoryEntry::Told(record))?;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn run_worker(
    process_config: &ProcessConfig,
    store: FailPointStore,
    history: HistoryWriter,
    fail_points: FailPoints,
) -> Result<(), HarnessError> {
    let context = HandlerContext {
        history: Arc::new(history),
        fail_points: fail_points.clone(),
        config: Arc::new(process_config.clone()),
    };
    let app = loop {
        match start(process_config, store.clone(), context.clone()).await {
            Ok(app) => break app,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    if process_config.rebuilds {
        rebuild_forever(&app).await;
    }
    std::future::pending::<()>().await;
    drop(app);
    Ok(())
}

async fn rebuild_forever(app: &App) {
    loop {
        // servers may be down, and a second process may be rebuilding
        let _ = app.rebuild::<Balances>().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start(
    process_config: &ProcessConfig,
    store: FailPointStore,
    context: HandlerContext,
) -> Result<App, HarnessError> {
    let bus = FailPointBus::new(RedisEventBus::connect(bus_config(process_config)).await?, context.fail_points.clone());
    let builder = App::builder().store(store).bus(bus).state(context);
    let builder = match process_config.settings {
        Settings::Default => builder,
        Settings::Short => {
            let lease = process_config.settings.lease();
            builder.lease(lease).lease(lease).lease(lease)
        }
    };
    Ok(builder.handler::<mail>().handler::<inbox>().projection(Ledger).projection(Balances).start().await?)
}

/// Returns the configuration of the bus for a child process.
#[must_use]
pub fn bus_config(process_config: &ProcessConfig) -> RedisEventBusConfig {
    let default = RedisEventBusConfig {
        redis_url: process_config.redis.clone(),
        stream_prefix: process_config.prefix.clone(),
        consumer_name: Some(process_config.name.clone()),
        ..RedisEventBusConfig::default()
    };
    match process_config.settings {
        Settings::Default => default,
        Settings::Short => RedisEventBusConfig { block_ms: 100, pending_idle_ms: 2_000, concurrency: 4, ..default },
    }
}
