//! Publishing again while the stream is intact.

use eventbus::relay::{GroupFloor, ResyncOutcome};

use crate::rig::{Rig, at};

#[tokio::test]
async fn the_position_goes_back_and_never_forward() {
    let rig = Rig::on(crate::common::config()).await;
    assert_eq!(rig.rewind(3).await, ResyncOutcome::Moved(at(3)), "there is no record; the next range is lost");
    assert_eq!(rig.publish(3, 3).await, "lost");
    rig.adopt(0, &[]).await;
    rig.publish(0, 10).await;
    assert_eq!(rig.rewind(12).await, ResyncOutcome::Moved(at(10)));
    assert_eq!(rig.rewind(10).await, ResyncOutcome::Moved(at(10)));
    assert_eq!(rig.rewind(4).await, ResyncOutcome::At(at(4)));
    assert_eq!(rig.rewind(4).await, ResyncOutcome::Moved(at(4)), "sent again");
    assert_eq!(rig.publish(10, 11).await, "moved to 4");
    assert_eq!(rig.publish(4, 11).await, "published");
    assert_eq!(rig.positions().await, (1..=10).chain(5..=11).collect::<Vec<_>>());
}

/// After a rewind, positions in the stream no longer ascend.
#[tokio::test]
async fn floors_are_not_overstated_while_what_is_published_again_lies_ahead() {
    let rig = Rig::adopted().await;
    for group in ["behind", "done"] {
        rig.make(group).await;
    }
    rig.publish(0, 1_000).await;
    rig.handle("done", 1_000).await;
    rig.handle("behind", 300).await;
    rig.floors(&[]).await;
    rig.run(&["XTRIM", &rig.stream, "MAXLEN", "200"]).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::Gap);
    assert_eq!(rig.rewind(300).await, ResyncOutcome::At(at(300)));
    rig.publish(300, 1_000).await;
    // the next own event that it reads is 801, but 301 to 800 come later
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(300)));
    assert_eq!(rig.floor("done").await, GroupFloor::At(at(300)));
    rig.handle("behind", 150).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(300)));
    rig.handle("behind", 50).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(300)));
    rig.handle("behind", 100).await;
    assert_eq!(rig.floor("behind").await, GroupFloor::At(at(400)));
    // a group that is made later also reads from far behind
    rig.make("late").await;
    rig.handle("late", 10).await;
    assert_eq!(rig.floor("late").await, GroupFloor::At(at(300)));
    rig.handle("done", 700).await;
    assert_eq!(rig.floor("done").await, GroupFloor::At(at(1_000)));
}

#[tokio::test]
async fn the_lower_one_of_two_rewinds_counts() {
    for (first, second, floor) in [(20, 60, 20), (60, 20, 20)] {
        let rig = Rig::adopted().await;
        rig.make("reports").await;
        rig.publish(0, 100).await;
        rig.handle("reports", 90).await;
        rig.rewind(first).await;
        rig.publish(first, 100).await;
        rig.rewind(second).await;
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(floor)));
        rig.publish(second, 100).await;
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(floor)));
        // the first rewind is over when the stream has no entry from before it
        rig.handle("reports", 1_000).await;
        rig.bus.trim(eventbus_redis::Trim { max_length: Some(1), max_age: None }).await.unwrap();
        rig.publish(100, 102).await;
        rig.rewind(99).await;
        rig.publish(99, 102).await;
        assert_eq!(rig.floor("reports").await, GroupFloor::At(at(99)));
    }
}

#[tokio::test]
async fn floors_are_not_overstated_when_only_the_record_was_lost() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.publish(0, 100).await;
    rig.handle("reports", 40).await;
    rig.run(&["DEL", &rig.key("relay")]).await;
    rig.adopt(10, &["reports"]).await;
    rig.publish(10, 20).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(10)), "41 is next, but 11 will come again");
    rig.handle("reports", 60).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(10)));
    rig.handle("reports", 5).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(15)));
}
