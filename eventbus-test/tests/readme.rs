//! The example of the README, which runs as it stands there.

use eventbus::{prelude::*, testkit::TestApp};
use eventstore_postgres::{PgConnection, PgEventStore, sqlx};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderPlaced {
    cents: i64,
}

#[derive(Default)]
struct Sums;

#[projection(
    name = "sums",
    tables("sums"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS sums (id text PRIMARY KEY, cents bigint NOT NULL)"
)]
impl Sums {
    async fn add(&self, event: &OrderPlaced, meta: &Metadata, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let add = "INSERT INTO sums VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET cents = sums.cents + excluded.cents";
        sqlx::query(add).bind(meta.aggregate_id().as_str()).bind(event.cents).execute(conn).await?;
        Ok(())
    }
}

#[tokio::test]
async fn orders_are_projected() -> eventbus::Result<()> {
    let database = eventbus_test::postgres(); // dropped with the value
    let store = PgEventStore::connect(database.url()).await?;
    let rows = store.clone();
    let app = TestApp::start(move || App::builder().store(store.clone()).discover()).await;
    app.save("o-1", [OrderPlaced { cents: 100 }, OrderPlaced { cents: 20 }]).await;
    app.settle().await;
    let mut read = rows.begin_read().await?;
    let sum = sqlx::query_scalar("SELECT cents FROM sums WHERE id = 'o-1'").fetch_one(read.connection());
    let sum: i64 = sum.await?;
    assert_eq!(sum, 120);
    Ok(())
}

#[test]
fn the_example_of_the_readme_is_this_one() {
    let shown = include_str!("../README.md").split("```rust,ignore\n").nth(1).and_then(|rest| rest.split("```").next());
    assert!(shown.is_some_and(|shown| include_str!("readme.rs").contains(shown)));
}
