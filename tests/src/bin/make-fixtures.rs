//! Makes the stored data of a format in a new folder: `cargo run -p workspace-tests --bin make-fixtures -- FOLDER`.
//!
//! Files of a released format are never made again: they are what that release wrote, and what databases hold. A later
//! format gets a folder of its own, made by the release that introduces it, and the tests open all folders.
//!
//! Ids, times and payloads are fixed, but for the times that a server takes from its own clock, the ids of stores and
//! the names of lease owners.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use eventbus::{BoxError, clock::SharedClock, testkit::ManualClock};
use eventstore_postgres::PgEventStore;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig};
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use workspace_tests::fixtures::{
    bus::{BusAndStore, fill_bus},
    contents::Contents,
    courses, postgres, progress,
    readers::OpenStore,
    redis_commands,
    scenario::{BEGINNING, fill},
    sqlite, users,
};

/// Makes the stored data of a format.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder to make; it must not exist.
    folder: PathBuf,
}

/// The time of the leases in the data of servers, which a clock of any machine has passed.
const LEASE_TIMES: &str = "UPDATE eventbus.leases SET renewed_at = '2026-01-15 08:00:00Z',
    expires_at = CASE role WHEN 'role:held é' THEN timestamptz '2126-01-15 08:00:00Z' ELSE '2026-01-15 08:00:01Z' END";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let Arguments { folder } = Arguments::parse();
    fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let of_sqlite = make_sqlite(&folder).await?;
    let of_postgres = make_postgres(&folder).await?;
    let of_redis = make_redis(&folder).await?;
    let without_tags = of_sqlite.events.iter().filter(|event| !courses::is_tagged(event));
    if of_postgres.events != of_sqlite.events || !of_redis.events.iter().eq(without_tags) {
        return Err("two stores hold different events".into());
    }
    let events: Vec<_> = of_sqlite.events.iter().map(ToString::to_string).collect();
    fs::write(folder.join("events.jsonl"), events.join("\n") + "\n")?;
    make_bus(&folder).await
}

/// Writes one field of an object per line.
fn write_expected(folder: &Path, name: &str, expected: &Value) -> Result<(), BoxError> {
    let fields = expected.as_object().ok_or("no object")?;
    let lines: Vec<_> = fields.iter().map(|(field, value)| format!("  {field:?}: {value}")).collect();
    Ok(fs::write(folder.join(name), format!("{{\n{}\n}}\n", lines.join(",\n")))?)
}

async fn fill_store(store: &OpenStore, clock: &ManualClock) -> Result<(), BoxError> {
    store.create_table().await?;
    let last = fill(&*store.port(), clock, usize::MAX).await?;
    progress::fill(&*store.port()).await?;
    progress::run_readers(store, clock.clone(), last).await?;
    users::fill(store, clock).await?;
    courses::fill(store, clock).await
}

async fn make_sqlite(folder: &Path) -> Result<Contents, BoxError> {
    let scratch = std::env::temp_dir().join(eventbus_test::unique_name("fixtures"));
    fs::create_dir_all(&scratch)?;
    let (path, clock) = (scratch.join("store.db"), ManualClock::at(BEGINNING));
    let config = SqliteEventStoreConfig { clock: SharedClock::new(clock.clone()), ..Default::default() };
    let store = OpenStore::Sqlite(SqliteEventStore::open_with(&path, config).await?);
    fill_store(&store, &clock).await?;
    sqlite::run(&path, &users::seal_fields_on_sqlite())?;
    let contents = Contents::read(&store).await?;
    sqlite::dump(&path, &folder.join("sqlite.db"))?;
    write_expected(folder, "sqlite.json", &contents.of_store)?;
    drop(store);
    fs::remove_dir_all(scratch)?;
    Ok(contents)
}

async fn make_postgres(folder: &Path) -> Result<Contents, BoxError> {
    let (url, clock) = (postgres::restore("").await?, ManualClock::at(BEGINNING));
    let store = PgEventStore::connect(&url).await?;
    let open = OpenStore::Postgres(store.clone());
    fill_store(&open, &clock).await?;
    postgres::run(&url, LEASE_TIMES).await?;
    postgres::run(&url, &users::seal_fields_on_postgres()).await?;
    let contents = Contents::read(&open).await?;
    fs::write(folder.join("postgres.sql"), postgres::dump(&url)?)?;
    write_expected(folder, "postgres.json", &contents.of_store)?;
    store.close().await;
    Ok(contents)
}

async fn make_redis(folder: &Path) -> Result<Contents, BoxError> {
    let (server, clock) = (eventbus_test::private_redis(), ManualClock::at(BEGINNING));
    let connect = async |url: &str| {
        let config = RedisEventStoreConfig {
            redis_url: url.into(),
            key_prefix: "shop".into(),
            clock: SharedClock::new(clock.clone()),
            ..Default::default()
        };
        Ok::<_, BoxError>(OpenStore::Redis(RedisEventStore::connect(config).await?))
    };
    fill_store(&connect(server.url()).await?, &clock).await?;
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    set_lease_times(&mut connection).await?;
    let commands = users::with_sealed_fields(&redis_commands::dump(&mut connection).await?)?;
    // an entry is never changed, so the data is that of a server with the changed commands
    let server = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    redis_commands::restore(&mut connection, &commands).await?;
    let contents = Contents::read(&connect(server.url()).await?).await?;
    fs::write(folder.join("redis.jsonl"), redis_commands::dump(&mut connection).await?)?;
    write_expected(folder, "redis.json", &contents.of_store)?;
    Ok(contents)
}

async fn set_lease_times(connection: &mut MultiplexedConnection) -> Result<(), BoxError> {
    let began = BEGINNING.unix_timestamp() * 1_000;
    for (role, until) in [("held é", began + 100 * 365 * 86_400_000), ("expired", began + 1)] {
        let mut set = redis::cmd("HSET");
        set.arg(format!("shop:eventstore:lease:role:{role}")).arg("renewed_at").arg(began).arg("expires_at").arg(until);
        let added: u64 = set.query_async(connection).await?;
        if added > 0 {
            return Err(format!("the lease of `{role}` has no such fields").into());
        }
    }
    Ok(())
}

async fn make_bus(folder: &Path) -> Result<(), BoxError> {
    let server = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let dump = async |connection: &mut MultiplexedConnection, both: &BusAndStore| {
        Ok((both.contents().await?, redis_commands::dump(connection).await?))
    };
    let (expected, commands) = fill_bus(server.url(), &mut connection, dump).await?;
    fs::write(folder.join("redis-bus.jsonl"), with_past_heartbeats(&commands)?)?;
    write_expected(folder, "redis-bus.json", &expected)
}

/// Sets the times of the last heartbeats to one that a clock of any machine has passed.
fn with_past_heartbeats(commands: &str) -> Result<String, BoxError> {
    let mut lines = Vec::new();
    for line in commands.lines() {
        let mut words: Value = serde_json::from_str(line)?;
        if words[0] == "HSET" && words[1] == "{events:stream}:members:receipts" {
            let mut member: Value = serde_json::from_str(words[3].as_str().ok_or("no member")?)?;
            member["at"] = (BEGINNING.unix_timestamp() * 1_000).into();
            words[3] = member.to_string().into();
        }
        lines.push(words.to_string() + "\n");
    }
    Ok(lines.concat())
}
