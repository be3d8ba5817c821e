//! Leases and the clock of the server.

use eventbus::testkit::event_store::lease_of_the_future_is_free;

use crate::{fresh, key, tell};

#[tokio::test]
async fn a_lease_is_free_when_the_clock_was_set_back() {
    let (store, connection) = fresh().await;
    let lease = key(&store, "eventstore:lease:relay");
    let set_back = async |time: std::time::Duration| {
        for field in ["expires_at", "renewed_at"] {
            let milliseconds = time.as_millis().to_string();
            tell::<i64>(&mut connection.clone(), &["HINCRBY", &lease, field, &milliseconds]).await;
        }
    };
    lease_of_the_future_is_free(store.clone(), set_back).await;
}
