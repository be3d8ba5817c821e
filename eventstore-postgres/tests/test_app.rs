//! Handlers and projections that take the store's connection, in an app on a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "as in any test")]

use std::time::Duration;

use eventbus::{HandlerError, app::StartMistake, prelude::*, testkit::TestApp};
use eventstore_postgres::PgEventStore;
use sqlx::{Connection as _, PgConnection};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Placed {
    cents: i64,
}

async fn add(name: &str, cents: i64, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let add = "INSERT INTO sums VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET cents = sums.cents + excluded.cents";
    sqlx::query(add).bind(name).bind(cents).execute(conn).await?;
    Ok(())
}

async fn sum_of(name: &str, conn: &mut PgConnection) -> i64 {
    let read = "SELECT coalesce(sum(cents), 0)::bigint FROM sums WHERE name = $1";
    sqlx::query_scalar(read).bind(name).fetch_one(conn).await.unwrap()
}

#[handler(manual)]
async fn sum(event: &Placed, conn: &mut PgConnection, attempt: Attempt) -> Result<(), HandlerError> {
    add("handler", event.cents, conn).await?;
    match attempt.0 {
        1 => Err(HandlerError::retry_after(Duration::from_hours(2), "not yet")),
        _ => Ok(()),
    }
}

#[derive(Debug)]
struct Sums;

#[projection(name = "sums", manual)]
impl Sums {
    async fn placed(&self, event: &Placed, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        add("projection", event.cents, conn).await
    }
}

#[tokio::test]
async fn handlers_and_projections_write_their_rows_once() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let mut conn = PgConnection::connect(database.url()).await.unwrap();
    let create = "CREATE TABLE sums (name text PRIMARY KEY, cents bigint NOT NULL)";
    sqlx::query(create).execute(&mut conn).await.unwrap();
    let app = TestApp::start(move || App::builder().store(store.clone()).handler::<sum>().projection(Sums)).await;
    app.save("o-1", [Placed { cents: 100 }, Placed { cents: 20 }]).await;
    app.settle().await;
    assert_eq!((sum_of("handler", &mut conn).await, sum_of("projection", &mut conn).await), (0, 120));
    app.advance(Duration::from_hours(5)).await;
    assert_eq!((app.handled::<sum>(), sum_of("handler", &mut conn).await), (2, 120));
    app.deliver_again().await;
    assert_eq!((app.handled::<sum>(), sum_of("handler", &mut conn).await), (4, 120));
    assert_eq!(sum_of("projection", &mut conn).await, 120);
}

#[derive(Debug)]
struct Blocked;

#[projection(
    name = "blocked",
    set_up = "DO $$ BEGIN RAISE SQLSTATE '55P03' USING MESSAGE = 'the table is locked'; END $$",
    manual
)]
impl Blocked {
    async fn placed(&self, _event: &Placed, _conn: &mut PgConnection) {}
}

#[tokio::test]
async fn a_set_up_that_can_succeed_later_is_no_mistake_of_the_projection() {
    let database = eventbus_test::postgres();
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let error = App::builder().store(store).projection(Blocked).start().await.unwrap_err();
    let [StartMistake::Unavailable { what, .. }] = error.mistakes() else { panic!("{error}") };
    assert_eq!(what, "the tables of projection `blocked`");
    assert!(error.to_string().contains("the table is locked"), "{error}");
}
