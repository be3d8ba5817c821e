//! Leases and recorded times when the clock of the machine is set back.

use std::time::Duration;

use crate::common::{fresh_path, open};
use eventbus::testkit::event_store::{lease_of_the_future_is_free, recorded_times_never_decrease};

#[tokio::test]
async fn a_lease_is_free_when_the_clock_was_set_back() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let set_back = async |time: Duration| {
        let mut tx = open(path.clone()).await.begin_transaction().await.unwrap();
        let sql = "UPDATE eventbus_leases SET renewed_at = renewed_at + ?1, expires_at = expires_at + ?1";
        tx.execute(sql, [i64::try_from(time.as_micros()).unwrap()]).unwrap();
        tx.commit().await.unwrap();
    };
    lease_of_the_future_is_free(store.clone(), set_back).await;
}

#[tokio::test]
async fn recorded_times_of_a_stream_stay_in_order_when_the_clock_was_set_back() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let set_back = async |time: Duration| {
        let mut tx = open(path.clone()).await.begin_transaction().await.unwrap();
        for table in ["eventbus_streams", "eventbus_events"] {
            let sql = format!("UPDATE {table} SET recorded_at = recorded_at + ?1");
            tx.execute(&sql, [i64::try_from(time.as_micros()).unwrap()]).unwrap();
        }
        tx.commit().await.unwrap();
    };
    recorded_times_never_decrease(store, set_back).await;
}
