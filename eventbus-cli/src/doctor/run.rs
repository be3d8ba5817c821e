//! Runs the checks.

use std::{path::PathBuf, sync::Arc};

use eventbus_redis::{RedisEventBusConfig, redis::aio::MultiplexedConnection};
use eventstore_postgres::sqlx::PgPool;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use tokio::time::timeout;

use super::{
    bus_target::BusTarget,
    catalog::{UnknownCheck, checks, find},
    check::Check,
    config::DoctorConfig,
    known_types::KnownTypes,
    outcome::CheckError,
    postgres_target::PostgresTarget,
    redis_store_target::RedisStoreTarget,
    redis_target::RedisTarget,
    report::Report,
    sqlite_target::SqliteTarget,
    subjects::{Subject, Subjects},
};
use crate::error::CommandError;

/// Examines servers, and the data that the project stores there; changes no data.
///
/// On PostgreSQL every statement runs in a read-only transaction with a time limit; on Redis no command changes a key.
///
/// # Examples
/// ```no_run
/// # async fn example(pool: eventstore_postgres::sqlx::PgPool) -> eventbus::Result<()> {
/// use eventbus_cli::doctor::Doctor;
///
/// let report = Doctor::new().postgres(pool, "eventbus").skip(["pg-disk"])?.run().await;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Doctor {
    config: DoctorConfig,
    postgres: Option<PostgresTarget>,
    /// The server, or the reason why it gave no connection.
    redis: Option<Result<RedisTarget, Arc<CheckError>>>,
    bus: Option<RedisEventBusConfig>,
    redis_store: Option<String>,
    redis_contents: Option<RedisEventStoreConfig>,
    /// The store on Redis beside the bus, if a second doctor examines its server.
    redis_store_beside: Option<RedisEventStoreConfig>,
    sqlite: Option<SqliteTarget>,
    known_types: Option<KnownTypes>,
    only: Vec<&'static str>,
    skip: Vec<&'static str>,
    /// Returns `true` for a subject whose checks a second doctor makes.
    is_left: Option<fn(Subject) -> bool>,
    is_deep: bool,
}

impl Doctor {
    /// Makes a doctor without a server.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the thresholds of the checks.
    #[must_use]
    pub fn config(self, config: DoctorConfig) -> Self {
        Self { config, ..self }
    }

    /// Examines a PostgreSQL server, and the store in this schema. One of the checks needs two connections of the pool.
    #[must_use]
    pub fn postgres(self, pool: PgPool, schema: &str) -> Self {
        Self { postgres: Some(PostgresTarget::new(pool, schema.into())), ..self }
    }

    /// Examines a Redis server.
    ///
    /// The connection should wait at least some seconds for an answer.
    #[must_use]
    pub fn redis(self, connection: MultiplexedConnection) -> Self {
        Self { redis: Some(Ok(RedisTarget::new(connection))), ..self }
    }

    /// Reports the checks of a Redis server as not made: connecting failed with `error`.
    pub(crate) fn without_redis(self, error: CheckError) -> Self {
        Self { redis: Some(Err(Arc::new(error))), ..self }
    }

    /// Also examines a bus on the [Redis server](Self::redis): the doctor connects to it, and creates no bus.
    #[must_use]
    pub fn bus(self, config: RedisEventBusConfig) -> Self {
        Self { bus: Some(config), ..self }
    }

    /// Also examines the keys of the event store with this `key_prefix` on the [Redis server](Self::redis).
    #[must_use]
    pub fn redis_store(self, key_prefix: &str) -> Self {
        Self { redis_store: Some(key_prefix.into()), ..self }
    }

    /// Like [`redis_store`](Self::redis_store), and also examines the contents of the store: the doctor connects to it,
    /// and creates no store.
    #[must_use]
    pub fn redis_store_with(self, config: RedisEventStoreConfig) -> Self {
        let doctor = self.redis_store(&config.key_prefix);
        // checks of their own report the durability of the server
        Self { redis_contents: Some(RedisEventStoreConfig { check_durability: false, ..config }), ..doctor }
    }

    /// Compares the [bus](Self::bus) with a store on a different Redis server, which a second doctor examines.
    pub(crate) fn redis_store_beside(self, config: RedisEventStoreConfig) -> Self {
        Self { redis_store_beside: Some(config), ..self }
    }

    /// Examines the file of a store on SQLite.
    #[must_use]
    pub fn sqlite(self, path: impl Into<PathBuf>) -> Self {
        Self { sqlite: Some(SqliteTarget::new(path.into())), ..self }
    }

    /// Compares the stored event types with those that the program knows, each with its schema version.
    #[must_use]
    pub fn known_types(self, types: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self { known_types: Some(KnownTypes::new(types)), ..self }
    }

    /// Sets whether to make checks that read whole tables or files too. By default such a check runs only if
    /// [`only`](Self::only) names it.
    #[must_use]
    pub fn deep(self, is_deep: bool) -> Self {
        Self { is_deep, ..self }
    }

    /// Makes only these checks; without names, all of them. A named check that cannot be made is reported as not
    /// checked, never as skipped.
    ///
    /// # Errors
    /// [`UnknownCheck`] for a name that no check has.
    pub fn only<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Result<Self, UnknownCheck> {
        Ok(Self { only: find_all(names)?, ..self })
    }

    /// Leaves these checks out.
    ///
    /// # Errors
    /// [`UnknownCheck`] for a name that no check has.
    pub fn skip<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Result<Self, UnknownCheck> {
        Ok(Self { skip: find_all(names)?, ..self })
    }

    /// Leaves the checks of some subjects to a second doctor: the report does not mention them.
    pub(crate) fn leave(self, is_left: fn(Subject) -> bool) -> Self {
        Self { is_left: Some(is_left), ..self }
    }

    /// Makes the checks, one after the other.
    pub async fn run(&self) -> Report {
        self.run_reporting(|_| ()).await
    }

    /// Like [`run`](Self::run), and calls `progress` with the name of each check that it begins.
    pub async fn run_reporting(&self, mut progress: impl FnMut(&'static str)) -> Report {
        let mut report = Report::new(self.config.clock.now());
        let (subjects, has_silent_server) = self.find_subjects().await;
        if has_silent_server {
            report.note_silent_server();
        }
        for check in checks().filter(|check| self.is_wanted(check)) {
            let is_named = self.only.contains(&check.name());
            let outcome = match subjects.require(check.subject()) {
                Err(missing @ CheckError::NotHere(_)) => Err(missing),
                _ if check.is_deep() && !self.is_deep && !is_named => {
                    Err(CheckError::NotHere("made with `--deep`, or named by `--only`, as whole tables are read"))
                }
                Err(unanswered) => Err(unanswered),
                Ok(()) => {
                    progress(check.name());
                    let limit = check.timeout(&self.config);
                    let late = || CheckError::Other(format!("it took longer than {limit:?}"));
                    // real time: the answer of a server
                    timeout(limit, check.make(&subjects)).await.unwrap_or_else(|_| Err(late()))
                }
            };
            match outcome {
                // a caller that names a check relies on it
                Err(CheckError::NotHere(reason)) if !is_named => report.skip(check, reason),
                outcome => report.add(check, outcome),
            }
        }
        report
    }

    /// Asks each server once. Also returns `true` if one gave no answer.
    async fn find_subjects(&self) -> (Subjects<'_>, bool) {
        let config = &self.config;
        let mut has_silent_server = false;
        let postgres = match &self.postgres {
            None => None,
            Some(target) => {
                let asking = async {
                    target.connect_once().await?;
                    target.has_store(config).await
                };
                Some((target, reason(answer(config, "PostgreSQL", asking).await, &mut has_silent_server)))
            }
        };
        let redis = match &self.redis {
            None => None,
            Some(Err(error)) => {
                has_silent_server |= error.is_silence();
                Some(Err(error.to_string()))
            }
            Some(Ok(target)) => {
                let target = target.clone().with_events(self.redis_store.is_some());
                let found = answer(config, "Redis", target.ping()).await.map(|()| target);
                Some(reason(found, &mut has_silent_server))
            }
        };
        let redis_contents = match self.redis_contents.as_ref().or(self.redis_store_beside.as_ref()) {
            Some(of_store) if redis.as_ref().is_some_and(Result::is_ok) => {
                Some(open_redis_store(config, of_store).await)
            }
            _ => None,
        };
        let sqlite = match &self.sqlite {
            None => None,
            Some(target) => Some(match answer(config, "the file", target.ping()).await {
                Err(error) if error.is_silence() => reason(Err(error), &mut has_silent_server),
                // each check reports the other faults in its own words
                _ => Ok(target),
            }),
        };
        let server = redis.as_ref().and_then(|redis| redis.as_ref().ok());
        let bus = match server.zip(self.bus.as_ref()) {
            Some((server, of_bus)) => {
                let opened = answer(config, "the bus", BusTarget::open(of_bus)).await;
                Some(BusTarget::new(server.clone(), of_bus, opened.map_err(|error| error.to_string())))
            }
            None => None,
        };
        let store = server.zip(self.redis_store.as_ref());
        let subjects = Subjects {
            config,
            bus,
            redis_store: store.map(|(redis, prefix)| RedisStoreTarget::new(redis.clone(), prefix)),
            redis_contents,
            postgres,
            redis,
            sqlite,
            known_types: self.known_types.as_ref(),
        };
        (subjects, has_silent_server)
    }

    fn is_wanted(&self, check: &Check) -> bool {
        let is_named = |names: &[&str]| names.contains(&check.name());
        let is_left = self.is_left.is_some_and(|is_left| is_left(check.subject()));
        (self.only.is_empty() || is_named(&self.only)) && !is_named(&self.skip) && !is_left
    }
}

fn find_all<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Vec<&'static str>, UnknownCheck> {
    names.into_iter().map(|name| find(name.as_ref()).map(Check::name)).collect()
}

/// Waits for the first answer of a subject, for twice the time of a statement.
async fn answer<T>(
    config: &DoctorConfig,
    subject: &str,
    asking: impl Future<Output = Result<T, CheckError>>,
) -> Result<T, CheckError> {
    // real time: the answer of a server
    let answered = timeout(config.statement_timeout.saturating_mul(2), asking).await;
    answered.unwrap_or_else(|_| Err(CheckError::Other(format!("{subject} gave no answer"))))
}

/// Returns the reason for the report; notes whether the server gave no answer.
fn reason<T>(found: Result<T, CheckError>, is_silent: &mut bool) -> Result<T, String> {
    *is_silent |= found.as_ref().is_err_and(CheckError::is_silence);
    found.map_err(|error| error.to_string())
}

/// Opens an existing store on Redis, or returns the reason why that fails.
async fn open_redis_store(config: &DoctorConfig, of_store: &RedisEventStoreConfig) -> Result<RedisEventStore, String> {
    let opening = async {
        let opened = RedisEventStore::attach(of_store.clone()).await;
        opened.map_err(|error| CheckError::Other(CommandError::from(error).to_line()))
    };
    answer(config, "the store on Redis", opening).await.map_err(|error| error.to_string())
}
