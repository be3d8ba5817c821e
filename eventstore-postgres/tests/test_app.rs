//! Handlers and projections that take the store's connection, in an app on a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::time::Duration;

use common::TestSchema;
use eventbus::{HandlerError, prelude::*, testkit::TestApp};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Placed {
    cents: i64,
}

/// The table of the test.
#[derive(Debug, Clone)]
struct Table(String);

impl Table {
    async fn add(&self, name: &str, cents: i64, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let add = format!(
            "INSERT INTO {0} VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET cents = {0}.cents + excluded.cents",
            self.0
        );
        sqlx::query(AssertSqlSafe(add)).bind(name).bind(cents).execute(conn).await?;
        Ok(())
    }

    async fn sum(&self, name: &str, conn: &mut PgConnection) -> i64 {
        let read = format!("SELECT coalesce(sum(cents), 0)::bigint FROM {} WHERE name = $1", self.0);
        sqlx::query_scalar(AssertSqlSafe(read)).bind(name).fetch_one(conn).await.unwrap()
    }
}

#[handler(manual)]
async fn sum(
    event: &Placed,
    State(table): State<Table>,
    conn: &mut PgConnection,
    attempt: Attempt,
) -> Result<(), HandlerError> {
    table.add("handler", event.cents, conn).await?;
    match attempt.0 {
        1 => Err(HandlerError::retry_after(Duration::from_hours(2), "not yet")),
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct Sums;

#[projection(name = "sums", manual)]
impl Sums {
    async fn placed(
        &self,
        event: &Placed,
        State(table): State<Table>,
        conn: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        table.add("projection", event.cents, conn).await
    }
}

#[tokio::test]
async fn handlers_and_projections_write_their_rows_once() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let mut conn = PgConnection::connect(test_servers::postgres_url()).await.unwrap();
    let table = Table(format!("{}.sums", schema.name()));
    let create = format!("CREATE TABLE {} (name text PRIMARY KEY, cents bigint NOT NULL)", table.0);
    sqlx::query(AssertSqlSafe(create)).execute(&mut conn).await.unwrap();
    let of_app = table.clone();
    let app = TestApp::start(move || {
        let app = App::builder().store(store.clone()).state(of_app.clone());
        app.handler::<sum>().projection(Sums)
    })
    .await;
    app.save("o-1", [Placed { cents: 100 }, Placed { cents: 20 }]).await;
    app.settle().await;
    assert_eq!((table.sum("handler", &mut conn).await, table.sum("projection", &mut conn).await), (0, 120));
    app.advance(Duration::from_hours(5)).await;
    assert_eq!((app.handled::<sum>(), table.sum("handler", &mut conn).await), (2, 120));
    app.deliver_again().await;
    assert_eq!((app.handled::<sum>(), table.sum("handler", &mut conn).await), (4, 120));
    assert_eq!(table.sum("projection", &mut conn).await, 120);
}
