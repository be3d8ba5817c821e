//! The two kinds of stores.

use std::{ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use eventbus::{App, app::AppBuilder, port::EventStore, projection::Projection};
use eventstore_postgres::{PgEventStore, PgTransaction};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction};
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::{
    batches,
    orders::{self, DUMP, Pace, TABLES},
    set_up,
};

/// A lease that does not expire on a machine under load.
pub(crate) const LONG_LEASE: Duration = Duration::from_secs(15);

/// A lease that others need not wait for long: that of a process that dies or is paused.
pub(crate) const SHORT_LEASE: Duration = Duration::from_millis(400);

/// A kind of store whose transactions include tables.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    type Rows: Projection + Default;
    /// Creates its table by itself.
    type PaidOrders: Projection + Default + Clone;
    /// Cannot create its table.
    type Misspelled: Projection + Default + Clone;
    /// Takes batches of events.
    type Receipts: Projection + Default;

    /// Returns the place of a new store.
    fn place() -> Place;
    fn open(place: &str) -> impl Future<Output = Self> + Send;
    fn store(&self) -> Arc<dyn EventStore>;
    fn with_effects(builder: AppBuilder) -> AppBuilder;
    fn tell(&self, sql: &str) -> impl Future<Output = ()> + Send;
    /// Returns the text that a query selects.
    fn ask(&self, sql: &str) -> impl Future<Output = String> + Send;

    /// Creates a store with its tables.
    fn fresh() -> impl Future<Output = (Place, Self)> + Send {
        async {
            let place = Self::place();
            let kind = Self::open(&place).await;
            for table in TABLES {
                kind.tell(table).await;
            }
            (place, kind)
        }
    }

    fn dump(&self) -> impl Future<Output = String> + Send {
        self.ask(DUMP)
    }

    /// Starts an app with the projection.
    fn app(&self, pace: Pace, lease: Duration) -> impl Future<Output = App> + Send {
        let builder = App::builder().store(self.store()).state(pace).projection(Self::Rows::default());
        let builder = builder.lease(lease).without_relay();
        async move { builder.start().await.unwrap() }
    }
}

/// The file or the database of a store, removed with this value.
pub(crate) enum Place {
    File(PathBuf),
    Database(eventbus_test::Postgres),
}

impl Deref for Place {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::File(path) => path.to_str().unwrap(),
            Self::Database(database) => database.url(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::File(path) = self {
            // the folder is the test's own
            let _ = std::fs::remove_dir_all(path.parent().unwrap());
        }
    }
}

pub(crate) struct Sqlite(SqliteEventStore);

impl Kind for Sqlite {
    const NAME: &'static str = "sqlite";
    type Rows = orders::sqlite::Rows;
    type PaidOrders = set_up::sqlite::PaidOrders;
    type Misspelled = set_up::sqlite::Misspelled;
    type Receipts = batches::sqlite::Receipts;

    fn place() -> Place {
        let folder = std::env::temp_dir().join(eventbus_test::unique_name("rows"));
        std::fs::create_dir_all(&folder).unwrap();
        Place::File(folder.join("rows.db"))
    }

    async fn open(place: &str) -> Self {
        Self(SqliteEventStore::open(place).await.unwrap())
    }

    fn store(&self) -> Arc<dyn EventStore> {
        Arc::new(self.0.clone())
    }

    fn with_effects(builder: AppBuilder) -> AppBuilder {
        orders::sqlite::with_effects(builder)
    }

    async fn tell(&self, sql: &str) {
        let mut transaction = self.0.transactions().unwrap().begin().await.unwrap();
        let own: &mut SqliteTransaction = transaction.as_any_mut().downcast_mut().unwrap();
        own.execute(sql, ()).unwrap();
        transaction.commit().await.unwrap();
    }

    async fn ask(&self, sql: &str) -> String {
        let mut transaction = self.0.transactions().unwrap().begin().await.unwrap();
        let own: &mut SqliteTransaction = transaction.as_any_mut().downcast_mut().unwrap();
        own.connection().unwrap().query_row(sql, (), |row| row.get(0)).unwrap()
    }
}

pub(crate) struct Postgres(PgEventStore);

impl Kind for Postgres {
    const NAME: &'static str = "postgres";
    type Rows = orders::postgres::Rows;
    type PaidOrders = set_up::postgres::PaidOrders;
    type Misspelled = set_up::postgres::Misspelled;
    type Receipts = batches::postgres::Receipts;

    fn place() -> Place {
        Place::Database(eventbus_test::postgres())
    }

    async fn open(place: &str) -> Self {
        Self(PgEventStore::connect(place).await.unwrap())
    }

    fn store(&self) -> Arc<dyn EventStore> {
        Arc::new(self.0.clone())
    }

    fn with_effects(builder: AppBuilder) -> AppBuilder {
        orders::postgres::with_effects(builder)
    }

    async fn tell(&self, sql: &str) {
        let mut transaction = self.0.transactions().unwrap().begin().await.unwrap();
        let own: &mut PgTransaction = transaction.as_any_mut().downcast_mut().unwrap();
        own.connection().execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn ask(&self, sql: &str) -> String {
        let mut transaction = self.0.transactions().unwrap().begin().await.unwrap();
        let own: &mut PgTransaction = transaction.as_any_mut().downcast_mut().unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()).into_sql_str()).fetch_one(own.connection()).await.unwrap()
    }
}
