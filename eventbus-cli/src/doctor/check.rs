//! A check: its name, its subject, and the function that makes it.

use std::time::Duration;

use eventstore_redis::RedisEventStore;
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{
    bus_target::BusTarget,
    config::DoctorConfig,
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    postgres_target::PostgresTarget,
    redis_store_target::RedisStoreTarget,
    redis_target::RedisTarget,
    sqlite_target::SqliteTarget,
    store_beside::StoreBeside,
};

/// The subject of a check: the doctor can make the check only if it has that subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Subject {
    /// A PostgreSQL server and database.
    Postgres,
    /// The tables of a store on PostgreSQL.
    PostgresStore,
    /// The event types stored on PostgreSQL, compared with a list of known ones.
    PostgresTypes,
    /// A Redis server.
    Redis,
    /// The streams and groups of a bus on Redis.
    Bus,
    /// The keys of a store on Redis.
    RedisStore,
    /// The event types stored on Redis, compared with a list of known ones.
    RedisTypes,
    /// A bus on Redis beside a store.
    BusAndStore,
    /// The file of a store on SQLite.
    Sqlite,
    /// The event types stored in SQLite, compared with a list of known ones.
    SqliteTypes,
}

pub(crate) type Checking<'a> = BoxFuture<'a, Result<Outcome, CheckError>>;

/// The function of a check, by its subject.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    Postgres(for<'a> fn(&'a PostgresTarget, &'a DoctorConfig) -> Checking<'a>),
    PostgresStore(for<'a> fn(&'a PostgresTarget, &'a DoctorConfig) -> Checking<'a>),
    PostgresTypes(for<'a> fn(&'a PostgresTarget, &'a KnownTypes, &'a DoctorConfig) -> Checking<'a>),
    Redis(for<'a> fn(&'a RedisTarget, &'a DoctorConfig) -> Checking<'a>),
    Bus(for<'a> fn(&'a BusTarget, &'a DoctorConfig) -> Checking<'a>),
    RedisStore(for<'a> fn(&'a RedisStoreTarget, &'a DoctorConfig) -> Checking<'a>),
    RedisContents(for<'a> fn(&'a RedisEventStore, &'a DoctorConfig) -> Checking<'a>),
    RedisTypes(for<'a> fn(&'a RedisEventStore, &'a KnownTypes) -> Checking<'a>),
    BusAndStore(for<'a> fn(&'a BusTarget, StoreBeside<'a>, &'a DoctorConfig) -> Checking<'a>),
    Sqlite(for<'a> fn(&'a SqliteTarget, &'a DoctorConfig) -> Checking<'a>),
    SqliteTypes(for<'a> fn(&'a SqliteTarget, &'a KnownTypes) -> Checking<'a>),
}

/// A check of a server, or of the data that the project stores there.
///
/// Its name is stable: scripts select and skip checks by it.
#[derive(derive_more::Debug, Clone, Copy)]
pub struct Check {
    name: &'static str,
    finds: &'static str,
    is_deep: bool,
    #[debug(skip)]
    run: Run,
}

/// The shortest time limit of a check.
const TIMEOUT_MIN: Duration = Duration::from_secs(15);
/// The number of statements with the longest answers for which a check has time.
const SLOW_STATEMENTS: u32 = 3;
/// The time limit of a check that reads whole tables; by then even its statements have ended.
const DEEP_TIMEOUT: Duration = Duration::from_secs(3_600);

impl Check {
    pub(crate) const fn new(name: &'static str, finds: &'static str, run: Run) -> Self {
        Self { name, finds, is_deep: false, run }
    }

    /// A check that reads whole tables.
    pub(crate) const fn deep(name: &'static str, finds: &'static str, run: Run) -> Self {
        Self { name, finds, is_deep: true, run }
    }

    /// Returns its name, such as `pg-sync-commit`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns a few words about what it finds, for lists.
    #[must_use]
    pub const fn finds(&self) -> &'static str {
        self.finds
    }

    /// Returns its subject.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        match self.run {
            Run::Postgres(_) => Subject::Postgres,
            Run::PostgresStore(_) => Subject::PostgresStore,
            Run::PostgresTypes(_) => Subject::PostgresTypes,
            Run::Redis(_) => Subject::Redis,
            Run::Bus(_) => Subject::Bus,
            Run::RedisStore(_) | Run::RedisContents(_) => Subject::RedisStore,
            Run::RedisTypes(_) => Subject::RedisTypes,
            Run::BusAndStore(_) => Subject::BusAndStore,
            Run::Sqlite(_) => Subject::Sqlite,
            Run::SqliteTypes(_) => Subject::SqliteTypes,
        }
    }

    /// Returns its time limit; a check that takes longer counts as not made.
    #[must_use]
    pub fn timeout(&self, config: &DoctorConfig) -> Duration {
        match self.is_deep {
            true => DEEP_TIMEOUT,
            false => config.statement_timeout.saturating_mul(SLOW_STATEMENTS).max(TIMEOUT_MIN),
        }
    }

    /// Returns `true` if it reads whole tables or files; the doctor makes such a check only on request.
    #[must_use]
    pub const fn is_deep(&self) -> bool {
        self.is_deep
    }

    pub(crate) const fn run(&self) -> Run {
        self.run
    }
}
