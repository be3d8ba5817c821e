//! The store beside a bus, on any of the servers.

use std::collections::HashMap;

use eventbus::{Name, StreamId, Uuid};
use eventbus_redis::redis::cmd;
use eventstore_sqlite::rusqlite::{OptionalExtension as _, params};

use super::{
    config::DoctorConfig, outcome::CheckError, postgres_target::PostgresTarget, redis_store_target::RedisStoreTarget,
    sqlite_target::SqliteTarget,
};
use crate::query::RETIRED;

/// The entries of a stream on Redis, each with its fields.
type Entries = Vec<(String, HashMap<String, String>)>;

/// The store beside a bus.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StoreBeside<'a> {
    Postgres(&'a PostgresTarget),
    Sqlite(&'a SqliteTarget),
    Redis(&'a RedisStoreTarget),
}

impl StoreBeside<'_> {
    /// Returns the id of the store, and its last position, 0 if it has no event.
    pub(crate) async fn load(self, config: &DoctorConfig) -> Result<(String, u64), CheckError> {
        let (id, head) =
            match self {
                Self::Postgres(store) => {
                    let query =
                        "SELECT id::text, coalesce((SELECT max(position) FROM {schema}.events), 0) FROM {schema}.store";
                    store.session(config).await?.row::<(String, i64)>(query).await?
                }
                Self::Sqlite(store) => store
                    .read(|connection| {
                        let is_store = connection.query_row(
                            "SELECT count(*) FROM sqlite_schema WHERE name = 'eventbus_store'",
                            [],
                            |row| row.get::<_, i64>(0),
                        )?;
                        if is_store == 0 {
                            return Err(CheckError::NotHere("the file holds no store"));
                        }
                        let query =
                            "SELECT id, (SELECT coalesce(max(position), 0) FROM eventbus_events) FROM eventbus_store";
                        let (id, head): (Vec<u8>, i64) =
                            connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
                        let id = Uuid::from_slice(&id)
                            .map_err(|error| CheckError::Other(format!("the store's id: {error}")))?;
                        Ok((id.to_string(), head))
                    })
                    .await?,
                Self::Redis(store) => {
                    let id: Option<String> = store.redis().query(cmd("HGET").arg((store.keys().meta(), "id"))).await?;
                    let id = id.ok_or(CheckError::NotHere("the prefix holds no store"))?;
                    (id, store.redis().query(cmd("XLEN").arg(store.keys().feed())).await?)
                }
            };
        Ok((id, u64::try_from(head).unwrap_or_default()))
    }

    /// Returns `true` if the store has a checkpoint or a lease of a relay, which is not retired.
    pub(crate) async fn has_relay(self, relay: &Name, config: &DoctorConfig) -> Result<bool, CheckError> {
        match self {
            Self::Postgres(store) => {
                let relay = relay.to_string();
                let rows: Vec<(bool,)> = store
                    .session(config)
                    .await?
                    .rows_with(
                        "SELECT EXISTS (SELECT FROM {schema}.checkpoints WHERE name = $1)
                             OR EXISTS (SELECT FROM {schema}.leases WHERE role = $1 AND owner <> $2)",
                        |statement| statement.bind(relay).bind(RETIRED),
                    )
                    .await?;
                Ok(rows.first().is_some_and(|(has,)| *has))
            }
            Self::Sqlite(store) => {
                let query = "SELECT EXISTS (SELECT 1 FROM eventbus_checkpoints WHERE name = ?1)
                    OR EXISTS (SELECT 1 FROM eventbus_leases WHERE role = ?1 AND owner <> ?2)";
                let relay = relay.to_string();
                store
                    .read(move |connection| Ok(connection.query_row(query, params![relay, RETIRED], |row| row.get(0))?))
                    .await
            }
            Self::Redis(store) => {
                let (redis, keys) = (store.redis(), store.keys());
                let owner: Option<String> = redis.query(cmd("HGET").arg((keys.lease(relay), "owner"))).await?;
                let has_checkpoint: bool = redis.query(cmd("EXISTS").arg(keys.checkpoint(relay))).await?;
                Ok(has_checkpoint || owner.is_some_and(|owner| owner != RETIRED))
            }
        }
    }

    /// Returns the position of the first event after a position, and its age in seconds; `None` if there is none.
    pub(crate) async fn first_after(self, after: u64, config: &DoctorConfig) -> Result<Option<(u64, f64)>, CheckError> {
        let bound = i64::try_from(after).unwrap_or(i64::MAX);
        let found: Option<(i64, f64)> = match self {
            Self::Postgres(store) => {
                let rows: Vec<(i64, f64)> = store
                    .session(config)
                    .await?
                    .rows_with(
                        "SELECT position, extract(epoch FROM clock_timestamp() - recorded_at)::float8
                         FROM {schema}.events WHERE position > $1 ORDER BY position LIMIT 1",
                        |statement| statement.bind(bound),
                    )
                    .await?;
                rows.into_iter().next()
            }
            Self::Sqlite(store) => {
                let query = "SELECT position, recorded_at FROM eventbus_events WHERE position > ?1
                    ORDER BY position LIMIT 1";
                let read = store.read(move |connection| {
                    let found = connection.query_row(query, params![bound], |row| Ok((row.get(0)?, row.get(1)?)));
                    Ok(found.optional()?)
                });
                let found: Option<(i64, i64)> = read.await?;
                found.map(|(position, recorded_at)| (position, age_of(recorded_at, config)))
            }
            Self::Redis(store) => load_first_on_redis(store, after, config).await?,
        };
        Ok(found.map(|(position, age)| (u64::try_from(position).unwrap_or_default(), age)))
    }
}

async fn load_first_on_redis(
    store: &RedisStoreTarget,
    after: u64,
    config: &DoctorConfig,
) -> Result<Option<(i64, f64)>, CheckError> {
    let page = (store.keys().feed(), format!("({after}-0"), "+", "COUNT", 1);
    let entries: Entries = store.redis().query(cmd("XRANGE").arg(page)).await?;
    let Some((id, pointer)) = entries.into_iter().next() else {
        return Ok(None);
    };
    let unreadable = |what: &str| CheckError::Other(format!("entry {id} of the feed has no {what}"));
    let field = |name: &str| pointer.get(name).ok_or_else(|| unreadable(name));
    let stream = StreamId::parse(field("aggregate_type")?, field("aggregate_id")?);
    let stream = stream.map_err(|_| unreadable("stream"))?.with_tenant_id(field("tenant_id")?.parse().ok());
    let of_event = format!("{}-0", field("version")?);
    let event = (store.keys().stream(&stream), &of_event, &of_event);
    let events: Entries = store.redis().query(cmd("XRANGE").arg(event)).await?;
    let recorded_at = events.first().and_then(|(_, fields)| fields.get("recorded_at")?.parse().ok());
    let recorded_at = recorded_at.ok_or_else(|| unreadable("event with a recorded time"))?;
    let position = id.split('-').next().and_then(|position| position.parse().ok());
    Ok(Some((position.ok_or_else(|| unreadable("position"))?, age_of(recorded_at, config))))
}

/// Returns the seconds since a time in microseconds since 1970, by the clock of this machine.
fn age_of(recorded_at: i64, config: &DoctorConfig) -> f64 {
    let now = config.clock.now().unix_timestamp_nanos() / 1_000;
    (now - i128::from(recorded_at)) as f64 / 1_000_000.0
}
