//! The bus's own trimming beside relays.

use eventbus::{
    port::EventBus,
    relay::{GroupFloor, Publisher, ResyncOutcome},
};
use eventbus_redis::Trim;
use uuid::Uuid;

use crate::{
    common::config_on,
    rig::{Rig, at},
};

const NOTHING_STAYS: Trim = Trim { max_length: Some(0), max_age: None };

#[tokio::test]
async fn trimming_everything_is_no_loss_to_a_relay() {
    let rig = Rig::adopted().await;
    rig.publish(0, 1_000).await;
    assert_eq!(rig.bus.trim(NOTHING_STAYS).await.unwrap().removed, 999, "the last own entry stays");
    assert_eq!(rig.positions().await, [1_000]);
    assert_eq!(rig.publish(1_000, 1_001).await, "published");
    let head: String = rig.command(&["HGET", &rig.key("relay"), "head"]).await;
    assert_eq!(head, rig.entries().await[0].0);
    rig.add_foreign(1).await;
    // a store without new events does not block the remaining stores of the stream
    rig.bus.trim(NOTHING_STAYS).await.unwrap();
    assert!(rig.positions().await.is_empty());
    assert_eq!(rig.entries().await.len(), 1);
    assert_eq!(rig.publish(1_001, 1_001).await, "published", "not lost");
    rig.run(&["DEL", &rig.stream]).await;
    assert_eq!(rig.publish(1_001, 1_001).await, "lost");
}

#[tokio::test]
async fn a_loss_is_seen_though_the_stream_was_trimmed_since() {
    let rig = Rig::adopted().await;
    rig.publish(0, 10).await;
    let last = rig.entries().await.pop().unwrap().0;
    rig.add_foreign(5).await;
    rig.run(&["XDEL", &rig.stream, &last]).await;
    rig.bus.trim(NOTHING_STAYS).await.unwrap();
    assert_eq!(rig.publish(10, 10).await, "lost");
}

#[tokio::test]
async fn no_store_is_lost_by_trimming_for_another() {
    let one = Rig::adopted().await;
    let two = one.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
    two.adopt_as(0, &[], true).await;
    two.publish(0, 5).await;
    for round in 0..5 {
        one.publish(round * 100, round * 100 + 100).await;
        one.bus.trim(Trim { max_length: Some(10), max_age: None }).await.unwrap();
        assert_eq!(two.publish(5, 5).await, "published");
    }
    assert_eq!(two.publish(5, 6).await, "published");
    assert_eq!((one.positions().await.len(), two.positions().await), (10, vec![6]));
}

#[tokio::test]
async fn known_groups_keep_what_they_have_yet_to_finish() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.publish(0, 100).await;
    rig.handle("reports", 30).await;
    rig.floors(&[]).await;
    assert_eq!(rig.bus.trim(NOTHING_STAYS).await.unwrap().removed, 30);
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(30)));
    rig.handle("reports", 100).await;
    assert_eq!(rig.bus.trim(NOTHING_STAYS).await.unwrap().removed, 69);
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(100)));
}

#[tokio::test]
async fn a_server_without_memory_is_trimmed_as_far_as_no_relay_is_lost() {
    let server = eventbus_test::private_redis();
    let rig = Rig::on(config_on(server.url())).await;
    rig.adopt(0, &[]).await;
    rig.publish(0, 100).await;
    rig.add_foreign(10).await;
    rig.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(rig.bus.publish(&[crate::rig::event(1)]).await.is_err(), "there is no room");
    assert_eq!(rig.bus.trim(NOTHING_STAYS).await.unwrap().removed, 99);
    assert_eq!(rig.publish(100, 100).await, "published");
    assert_eq!(rig.adopt(0, &[]).await, ResyncOutcome::Moved(at(100)));
    rig.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(rig.bus.trim(NOTHING_STAYS).await.unwrap().removed, 10);
    assert_eq!(rig.publish(100, 101).await, "published");
}
