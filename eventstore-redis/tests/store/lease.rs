//! Leases and the clock of the server; the names of leases and checkpoints.

use std::time::Duration;

use eventbus::{
    Name,
    port::{Checkpoints as _, Leases as _},
    testkit::event_store::lease_of_the_future_is_free,
};

use crate::{fresh, key, tell};

#[tokio::test]
async fn a_lease_is_free_when_the_clock_was_set_back() {
    let (store, connection) = fresh().await;
    let lease = key(&store, "eventstore:lease:relay");
    let set_back = async |time: Duration| {
        for field in ["expires_at", "renewed_at"] {
            let milliseconds = time.as_millis().to_string();
            tell::<i64>(&mut connection.clone(), &["HINCRBY", &lease, field, &milliseconds]).await;
        }
    };
    lease_of_the_future_is_free(store.clone(), set_back).await;
}

/// Fails if the store keeps the name of each reader that was ever retired, or forgets the name of a lease.
#[tokio::test]
async fn the_name_of_a_deleted_checkpoint_is_kept_for_its_lease_alone() {
    let (store, mut connection) = fresh().await;
    let [with_lease, without_lease] = ["projection:orders", "relay:redis:orders"].map(Name::from_static);
    let lease = store.acquire_lease(&with_lease, &Name::from_static("owner"), Duration::from_secs(60)).await.unwrap();
    for name in [&with_lease, &without_lease] {
        store.save_checkpoint(name, 7.into()).await.unwrap();
    }
    store.release_lease(&lease.unwrap()).await.unwrap();
    for name in [&with_lease, &without_lease] {
        store.delete_checkpoint(name).await.unwrap();
    }
    let names = key(&store, "eventstore:reader_names");
    assert_eq!(tell::<Vec<String>>(&mut connection, &["ZRANGE", &names, "0", "-1"]).await, ["projection:orders"]);
}
