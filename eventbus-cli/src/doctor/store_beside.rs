//! The store beside a bus, on any of the servers.

use eventbus::{
    Name, Position, Uuid,
    port::{Checkpoints as _, Leases as _, ReadFeed as _},
};
use eventstore_redis::RedisEventStore;

use super::{
    config::DoctorConfig,
    outcome::{CheckError, unread},
    postgres_target::PostgresTarget,
    sqlite_target::SqliteTarget,
    statement::{Database as _, Row},
};
use crate::query::RETIRED;

/// The store beside a bus.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StoreBeside<'a> {
    Postgres(&'a PostgresTarget),
    Sqlite(&'a SqliteTarget),
    Redis(&'a RedisEventStore),
}

impl StoreBeside<'_> {
    /// Runs a statement on the SQL database of the store.
    async fn query(self, sql: &str, config: &DoctorConfig) -> Result<Vec<Row>, CheckError> {
        match self {
            Self::Postgres(store) => store.session(config).await?.query(sql, config).await,
            Self::Sqlite(store) => store.with_clock(&config.clock).query(sql, config).await,
            Self::Redis(_) => Ok(Vec::new()),
        }
    }

    /// Returns the id of the store, and its last position, 0 if it has no event.
    pub(crate) async fn load(self, config: &DoctorConfig) -> Result<(Uuid, u64), CheckError> {
        if let Self::Redis(store) = self {
            return Ok((store.store_id().await.map_err(unread)?, store.head().await.map_err(unread)?.get()));
        }
        if let Self::Sqlite(_) = self {
            let table = self.query("SELECT 1 FROM sqlite_schema WHERE name = 'eventbus_store'", config).await?;
            if table.is_empty() {
                return Err(CheckError::NotHere("the file holds no store"));
            }
        }
        let query = "SELECT {uuid id} AS id, (SELECT coalesce(max(position), 0) FROM {table events}) AS head
            FROM {table store}";
        let rows = self.query(query, config).await?;
        let row = rows.first().ok_or_else(|| CheckError::Other("the store has no id".into()))?;
        Ok((row.get("id")?, row.get("head")?))
    }

    /// Returns `true` if the store has a checkpoint or a lease of a relay, which is not retired.
    pub(crate) async fn has_relay(self, relay: &Name, config: &DoctorConfig) -> Result<bool, CheckError> {
        if let Self::Redis(store) = self {
            let has_checkpoint = store.load_checkpoint(relay).await.map_err(unread)?.is_some();
            let lease = store.lease_of(relay).await.map_err(unread)?;
            return Ok(has_checkpoint || lease.is_some_and(|lease| *lease.owner != *RETIRED));
        }
        let relay = relay.replace('\'', "''");
        let query = format!(
            "SELECT 1 FROM {{table checkpoints}} WHERE name = '{relay}'
             UNION ALL
             SELECT 1 FROM {{table leases}} WHERE role = '{relay}' AND owner <> {{retired}}"
        );
        Ok(!self.query(&query, config).await?.is_empty())
    }

    /// Returns the position of the first event after a position, and its age in seconds; `None` if there is none.
    pub(crate) async fn first_after(self, after: u64, config: &DoctorConfig) -> Result<Option<(u64, f64)>, CheckError> {
        if let Self::Redis(store) = self {
            let recorded = store.first_recorded_after(Position::new(after)).await.map_err(unread)?;
            // the positions of a store on Redis have no gaps
            return Ok(recorded.map(|recorded| (after + 1, (config.clock.now() - recorded).as_seconds_f64())));
        }
        let query = format!(
            "SELECT position, {{now}} - {{seconds recorded_at}} AS age FROM {{table events}}
             WHERE position > {after} ORDER BY position LIMIT 1"
        );
        let rows = self.query(&query, config).await?;
        rows.first().map(|row| Ok((row.get("position")?, row.get("age")?))).transpose()
    }
}
