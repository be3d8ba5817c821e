//! A handler's parameter: the connection of the store's transaction.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use common::{TestSchema, open, run};
use eventbus::port::{EventStore as _, FromTransaction, Requirements, TypeKey};
use eventstore_postgres::{PgConnection, PgEventStore, PgTransaction};
use sqlx::postgres::PgPoolOptions;

type Parameter = PgConnection;

async fn take(transaction: &mut PgTransaction) -> &mut PgConnection {
    <Parameter as FromTransaction<PgEventStore>>::take(Some(transaction)).unwrap()
}

#[tokio::test]
async fn a_handler_takes_part_in_the_transaction() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    assert!(store.transactions().is_none());
    let name = schema.config().schema;
    let pool = PgPoolOptions::new().connect(test_servers::postgres_url()).await.unwrap();
    run(&mut schema.connection().await, "CREATE TABLE rows (number integer)").await;
    let insert = format!("INSERT INTO {name}.rows VALUES (1)");
    for commit in [false, true] {
        let mut transaction = PgTransaction::from(pool.begin().await.unwrap());
        run(take(&mut transaction).await, &insert).await;
        if commit {
            transaction.into_inner().commit().await.unwrap();
        }
    }
    let count = sqlx::query_scalar("SELECT count(*) FROM rows");
    let rows: i64 = count.fetch_one(&mut schema.connection().await).await.unwrap();
    assert_eq!(rows, 1, "the transaction that was dropped is rolled back, the other is kept");
}

#[test]
fn a_handler_demands_transactions_of_this_store() {
    let mut requirements = Requirements::default();
    <Parameter as FromTransaction<PgEventStore>>::requires(&mut requirements);
    assert_eq!(requirements.transactions(), [TypeKey::of::<PgTransaction>()]);
    assert!(<Parameter as FromTransaction<PgEventStore>>::take(None).is_err());
    let mut foreign = 5_u32;
    assert!(<Parameter as FromTransaction<PgEventStore>>::take(Some(&mut foreign)).is_err());
}
