//! `schema` and `migrate`: the migrations of a store's tables.

use clap::Args;
use eventbus::support::{Migration, SchemaState};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_redis::{RedisConnectError, RedisEventStore};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig, file_of_url};
use serde::Serialize;

use crate::{
    connection::{ConnectionSettings, StoreUrl},
    error::{CommandError, ExitStatus},
    output::{Progress, Table},
    session::Session,
};

/// Show the migrations of the store, and those that this release knows
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {}

/// Create or upgrade the tables of the store
///
/// Each migration is all or nothing. An additive one may run beside processes of an older release; before a breaking one
/// they must end.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {}

/// The layout of a store.
#[derive(Debug, Serialize)]
struct Layout {
    /// The newest migration of the store, 0 without tables; of a Redis store the number of its format.
    at: u32,
    /// The newest one that this release knows, where there are migrations.
    known: Option<u32>,
    /// The lowest format that a release must know, of a Redis store.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_reader: Option<u32>,
    migrations: Vec<MigrationRow>,
}

#[derive(Debug, Serialize)]
struct MigrationRow {
    number: u32,
    name: String,
    kind: &'static str,
    applied: bool,
}

impl MigrationRow {
    fn new(migration: &Migration, applied: bool) -> Self {
        let Migration { version, name, kind } = migration;
        Self { number: *version, name: name.clone(), kind: kind.as_str(), applied }
    }
}

impl From<SchemaState> for Layout {
    fn from(state: SchemaState) -> Self {
        let applied = state.applied.iter().map(|applied| MigrationRow::new(applied, true));
        let missing = state.missing().map(|missing| MigrationRow::new(missing, false));
        Self {
            at: state.applied.last().map_or(0, |last| last.version),
            known: Some(state.known.last().map_or(0, |last| last.version)),
            min_reader: None,
            migrations: applied.chain(missing).collect(),
        }
    }
}

impl Layout {
    fn missing(&self) -> Vec<String> {
        let missing = self.migrations.iter().filter(|migration| !migration.applied);
        missing.map(|migration| format!("{} {} ({})", migration.number, migration.name, migration.kind)).collect()
    }

    /// Loads the layout of the store.
    async fn load(settings: &ConnectionSettings) -> Result<Self, CommandError> {
        Ok(match settings.store_url()? {
            StoreUrl::Postgres(url) => PgEventStore::schema_state(&settings.postgres_config(url)).await?.into(),
            StoreUrl::Sqlite(url) => SqliteEventStore::schema_state(&url, settings.sqlite_config()).await?.into(),
            StoreUrl::Redis(url) => {
                let store = RedisEventStore::attach(settings.redis_store_config(url)).await?;
                let (at, min_reader) = store.recorded_format().await?;
                Self { at, known: None, min_reader: Some(min_reader), migrations: Vec::new() }
            }
        })
    }
}

impl SchemaArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let layout = Progress::while_reading(Layout::load(session.settings())).await?;
        session.show(&layout, layout_text)
    }
}

fn layout_text(layout: &Layout) -> String {
    let Some(known) = layout.known else {
        let min_reader = layout.min_reader.unwrap_or(layout.at);
        return format!("format {}, readable by releases that know format {min_reader}\n", layout.at);
    };
    let table = Table::new("MIGRATION>, NAME, KIND, APPLIED").rows(&layout.migrations, |row| {
        let applied = if row.applied { "yes" } else { "no" };
        [row.number.to_string(), row.name.clone(), row.kind.into(), applied.into()]
    });
    format!("at migration {} of {known}\n{}", layout.at, table.to_text())
}

impl MigrateArgs {
    pub(crate) async fn run(&self, session: &Session) -> Result<ExitStatus, CommandError> {
        let settings = session.settings();
        let (url, printer) = (settings.store_url()?, session.printer());
        let missing = match &url {
            StoreUrl::Sqlite(url) if !is_file(url) => vec!["the file and its tables".to_owned()],
            StoreUrl::Redis(url) => match RedisEventStore::attach(settings.redis_store_config(url.clone())).await {
                Ok(_) => Vec::new(),
                Err(RedisConnectError::NotFound { key, .. }) => vec![format!("the key `{key}`")],
                Err(error) => return Err(error.into()),
            },
            _ => Layout::load(settings).await?.missing(),
        };
        if missing.is_empty() {
            printer.note("the store is up to date");
        } else if session.may_change(&format!("create or migrate: {}", missing.join(", "))).await? {
            let _line = Progress::of_unknown_size("migrating")?;
            match url {
                StoreUrl::Postgres(url) => {
                    let config = PgEventStoreConfig { migrate: true, ..settings.postgres_config(url) };
                    PgEventStore::migrate(&config).await?;
                }
                StoreUrl::Sqlite(url) => {
                    let config =
                        SqliteEventStoreConfig { migrate: true, create_if_missing: true, ..settings.sqlite_config() };
                    drop(SqliteEventStore::connect_with(&url, config).await?);
                }
                StoreUrl::Redis(url) => drop(RedisEventStore::connect(settings.redis_store_config(url)).await?),
            }
        } else {
            return Ok(ExitStatus::Done);
        }
        session.show(&Layout::load(settings).await?, layout_text)
    }
}

/// Returns `true` if the URL of an SQLite store names a file that exists.
fn is_file(url: &str) -> bool {
    file_of_url(url).is_ok_and(|file| file.is_some_and(|file| file.exists()))
}
