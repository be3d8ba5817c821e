//! Several stores on one stream.

use eventbus::relay::{GroupFloor, Publisher, ResyncOutcome};
use uuid::Uuid;

use crate::rig::{Rig, at};

#[tokio::test]
async fn stores_that_share_a_stream_do_not_disturb_each_other() {
    let one = Rig::adopted().await;
    let two = one.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
    assert_eq!(two.publish(0, 1).await, "lost");
    assert_eq!(two.adopt_as(0, &["reports"], true).await, ResyncOutcome::At(at(0)));
    for position in 0..50 {
        assert_eq!(one.publish(position * 2, position * 2 + 2).await, "published");
        assert_eq!(two.publish(position, position + 1).await, "published");
    }
    assert_eq!(one.positions().await, (1..=100).collect::<Vec<_>>());
    assert_eq!(two.positions().await, (1..=50).collect::<Vec<_>>());
    one.handle("reports", 75).await;
    assert_eq!(one.floor("reports").await, GroupFloor::At(at(50)));
    assert_eq!(two.floor("reports").await, GroupFloor::At(at(25)));
    one.run(&["DEL", &one.stream]).await;
    assert_eq!(one.publish(100, 101).await, "lost");
    assert_eq!(two.publish(50, 51).await, "lost");
    one.adopt_as(50, &["reports"], true).await;
    one.publish(50, 101).await;
    assert_eq!(two.publish(50, 51).await, "lost", "the other store has not repaired it");
    two.adopt_as(25, &["reports"], true).await;
    assert_eq!(one.publish(101, 102).await, "published", "it is not lost again");
    two.publish(25, 51).await;
    assert_eq!(one.positions().await, (51..=102).collect::<Vec<_>>());
    assert_eq!(two.positions().await, (26..=51).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_is_not_to_be_shared_is_left_alone_by_another_store() {
    let one = Rig::adopted().await;
    one.publish(0, 5).await;
    let two = one.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
    let before: Vec<String> = one.command(&["HGETALL", &one.key("relay")]).await;
    assert_eq!(two.adopt(0, &["reports"]).await, ResyncOutcome::OtherStore(one.publisher.store));
    let after: Vec<String> = one.command(&["HGETALL", &one.key("relay")]).await;
    assert_eq!(after, before);
    assert_eq!(one.floors(&["reports"]).await["reports"], GroupFloor::Missing, "no group was made");
    // the first store does not wait for one that shares its stream
    assert_eq!(two.adopt_as(0, &[], true).await, ResyncOutcome::At(at(0)));
    assert_eq!(one.adopt(0, &[]).await, ResyncOutcome::Moved(at(5)));
}

#[tokio::test]
async fn a_store_made_anew_publishes_once_an_operator_removed_what_the_former_one_left() {
    for whole_stream in [false, true] {
        let one = Rig::adopted().await;
        one.publish(0, 5).await;
        let two = one.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
        let ResyncOutcome::OtherStore(former) = two.adopt(0, &["reports"]).await else { panic!("it is not refused") };
        let relay = one.key("relay");
        let _removed: u64 = match whole_stream {
            true => one.command(&["DEL", &one.stream, &relay]).await,
            false => one.command(&["HDEL", &relay, &former.to_string()]).await,
        };
        assert_eq!(two.adopt(0, &["reports"]).await, ResyncOutcome::At(at(0)));
        assert_eq!(two.publish(0, 3).await, "published");
        assert_eq!(two.positions().await, [1, 2, 3]);
    }
}
