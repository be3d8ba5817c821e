//! The two kinds of stores.

use std::{sync::Arc, time::Duration};

use eventbus::{App, app::AppBuilder, port::EventStore, projection::Projection};
use eventstore_postgres::{PgEventStore, PgTransaction};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction};
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr};

use crate::{
    orders::{self, DUMP, Pace, TABLES},
    set_up,
};

/// A kind of store whose transactions include tables.
pub(crate) trait Kind: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    type Rows: Projection + Default;
    /// Creates its table by itself.
    type PaidOrders: Projection + Default + Clone;
    /// Cannot create its table.
    type Misspelled: Projection + Default + Clone;

    /// Returns the place of a new store.
    fn place() -> impl Future<Output = String> + Send;
    fn open(place: &str) -> impl Future<Output = Self> + Send;
    fn store(&self) -> Arc<dyn EventStore>;
    fn with_effects(builder: AppBuilder) -> AppBuilder;
    fn tell(&self, sql: &str) -> impl Future<Output = ()> + Send;
    /// Returns the text that a query selects.
    fn ask(&self, sql: &str) -> impl Future<Output = String> + Send;

    /// Creates a store with its tables.
    fn fresh() -> impl Future<Output = (String, Self)> + Send {
        async {
            let place = Self::place().await;
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
    fn app(&self, pace: Pace) -> impl Future<Output = App> + Send {
        let builder = App::builder().store(self.store()).state(pace).projection(Self::Rows::default());
        let builder = builder.projection_lease(Duration::from_millis(400)).without_relay();
        async move { builder.start().await.unwrap() }
    }
}

pub(crate) struct Sqlite(SqliteEventStore);

impl Kind for Sqlite {
    const NAME: &'static str = "sqlite";
    type Rows = orders::sqlite::Rows;
    type PaidOrders = set_up::sqlite::PaidOrders;
    type Misspelled = set_up::sqlite::Misspelled;

    async fn place() -> String {
        let folder = std::env::temp_dir().join(eventbus_test::unique_name("rows"));
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("rows.db").to_str().unwrap().to_owned()
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

    async fn place() -> String {
        let name = eventbus_test::unique_name("rows");
        let mut admin = sqlx::PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
        admin.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
        eventbus_test::database_url_for(&name)
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
