//! A handler's parameter: the connection of the store's transaction.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use common::{TestSchema, open, run};
use eventbus::port::{EventStore as _, FromTransaction, Requirements, Transaction, TypeKey};
use eventstore_postgres::{PgConnection, PgEventStore, PgTransaction};

type Parameter = PgConnection;

fn take(transaction: &mut dyn Transaction) -> &mut PgConnection {
    <Parameter as FromTransaction<PgEventStore>>::take(Some(transaction.as_any_mut())).unwrap()
}

#[tokio::test]
async fn a_handler_takes_part_in_the_transaction() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    let transactions = store.transactions().unwrap();
    assert_eq!(transactions.transaction_type(), TypeKey::of::<PgTransaction>());
    run(&mut schema.connection().await, "CREATE TABLE rows (number integer)").await;
    let insert = format!("INSERT INTO {}.rows VALUES (1)", schema.name());
    for commit in [false, true] {
        let mut transaction = transactions.begin().await.unwrap();
        run(take(&mut *transaction), &insert).await;
        if commit {
            transaction.commit().await.unwrap();
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
