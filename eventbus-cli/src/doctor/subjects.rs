//! The subjects of a doctor: the servers and files that it examines.

use eventstore_redis::RedisEventStore;
use serde::{Deserialize, Serialize};

use super::{
    bus_target::BusTarget,
    config::DoctorConfig,
    known_types::KnownTypes,
    outcome::{CheckError, Outcome},
    postgres_target::PostgresTarget,
    redis_store_target::RedisStoreTarget,
    redis_target::RedisTarget,
    sqlite_target::SqliteTarget,
    statement::{Database as _, Known, Statement},
    store_beside::StoreBeside,
};

/// The subject of a check: the doctor can make the check only if it has that subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// The subjects of a doctor, after it asked each server once: it does not wait for an absent server again at each
/// check.
#[derive(Debug)]
pub(crate) struct Subjects<'a> {
    pub(crate) config: &'a DoctorConfig,
    /// The database, and whether it has a store, or the reason why that is unknown.
    pub(super) postgres: Option<(&'a PostgresTarget, Result<bool, String>)>,
    pub(super) redis: Option<Result<RedisTarget, String>>,
    pub(super) bus: Option<BusTarget<'a>>,
    pub(super) redis_store: Option<RedisStoreTarget>,
    /// The store on Redis, on this server or beside the bus, or the reason why it cannot be opened.
    pub(super) redis_contents: Option<Result<RedisEventStore, String>>,
    /// The file, or the reason why it cannot be opened.
    pub(super) sqlite: Option<Result<&'a SqliteTarget, String>>,
    pub(super) known_types: Option<&'a KnownTypes>,
}

/// Returns the subject; the error says why its server gave no answer.
fn answered<'r, T>(found: Option<&'r Result<T, String>>, missing: &'static str) -> Result<&'r T, CheckError> {
    found.ok_or(CheckError::NotHere(missing))?.as_ref().map_err(|reason| CheckError::Other(reason.clone()))
}

impl<'a> Subjects<'a> {
    /// Checks that the doctor has a subject.
    pub(crate) fn require(&self, subject: Subject) -> Result<(), CheckError> {
        match subject {
            Subject::Postgres => self.postgres().map(drop),
            Subject::PostgresStore => self.postgres_store().map(drop),
            Subject::PostgresTypes => self.postgres_store().and_then(|_| self.known_types()).map(drop),
            Subject::Redis => self.redis().map(drop),
            Subject::Bus => self.bus().map(drop),
            Subject::RedisStore => self.redis_store().map(drop),
            Subject::RedisTypes => self.redis_contents().and_then(|_| self.known_types()).map(drop),
            Subject::BusAndStore => self.bus().and_then(|_| self.store_beside()).map(drop),
            Subject::Sqlite => self.sqlite().map(drop),
            Subject::SqliteTypes => self.sqlite().and_then(|_| self.known_types()).map(drop),
        }
    }

    /// Runs the statements of a check on the database of its subject.
    pub(crate) async fn run(
        &self,
        subject: Subject,
        statements: &[Statement],
        is_deep: bool,
    ) -> Result<Outcome, CheckError> {
        let known = Known { config: self.config, types: self.known_types, is_deep };
        match subject {
            Subject::Sqlite | Subject::SqliteTypes => {
                let mut file = self.sqlite()?.with_clock(&self.config.clock);
                file.check(statements, known).await
            }
            _ => {
                let limit = if is_deep { self.config.deep_timeout } else { self.config.statement_timeout };
                let mut session = self.postgres()?.session_within(limit).await?;
                session.check(statements, known).await
            }
        }
    }

    pub(crate) fn postgres(&self) -> Result<&'a PostgresTarget, CheckError> {
        let (target, found) = self.postgres.as_ref().ok_or(CheckError::NotHere("no PostgreSQL server was given"))?;
        found.as_ref().map_err(|reason| CheckError::Other(reason.clone()))?;
        Ok(target)
    }

    pub(crate) fn postgres_store(&self) -> Result<&'a PostgresTarget, CheckError> {
        let target = self.postgres()?;
        match &self.postgres {
            Some((_, Ok(false))) => Err(CheckError::NotHere("the schema holds no store")),
            _ => Ok(target),
        }
    }

    pub(crate) fn redis(&self) -> Result<&RedisTarget, CheckError> {
        answered(self.redis.as_ref(), "no Redis server was given")
    }

    pub(crate) fn redis_store(&self) -> Result<&RedisStoreTarget, CheckError> {
        self.redis()?;
        self.redis_store.as_ref().ok_or(CheckError::NotHere("no event store on Redis was given"))
    }

    pub(crate) fn redis_contents(&self) -> Result<&RedisEventStore, CheckError> {
        self.redis_store()?;
        answered(self.redis_contents.as_ref(), "of the event store on Redis only the prefix was given")
    }

    pub(crate) fn bus(&self) -> Result<&BusTarget<'a>, CheckError> {
        self.redis()?;
        self.bus.as_ref().ok_or(CheckError::NotHere("no bus on Redis was given"))
    }

    pub(crate) fn store_beside(&self) -> Result<StoreBeside<'_>, CheckError> {
        if self.postgres.is_some() {
            return self.postgres_store().map(StoreBeside::Postgres);
        }
        if self.sqlite.is_some() {
            return self.sqlite().map(StoreBeside::Sqlite);
        }
        if self.redis_store.is_some() {
            return self.redis_contents().map(StoreBeside::Redis);
        }
        answered(self.redis_contents.as_ref(), "no store was given").map(StoreBeside::Redis)
    }

    pub(crate) fn sqlite(&self) -> Result<&'a SqliteTarget, CheckError> {
        answered(self.sqlite.as_ref(), "no SQLite file was given").copied()
    }

    pub(crate) fn known_types(&self) -> Result<&'a KnownTypes, CheckError> {
        self.known_types.ok_or(CheckError::NotHere("no list of known event types was given"))
    }
}
