//! Data that the server loses, and how the relay replaces it.

use std::sync::atomic::{AtomicBool, Ordering};

use eventbus::{
    Name,
    port::EventBus,
    relay::{GroupFloor, GroupFloors, Publisher, RangeOutcome, ResyncOutcome},
};
use eventbus_redis::{GroupStart, RedisEventBus, Trim};

use crate::{
    common::config,
    rig::{Rig, at},
};

const ALL: usize = 10_000;

/// Loses data in one of these ways.
async fn lose(rig: &Rig, how: &str) {
    let (stream, relay) = (rig.stream.clone(), rig.key("relay"));
    let last = rig.entries().await.pop().map(|(id, _)| id).unwrap_or_default();
    match how {
        "everything" => rig.run(&["DEL", &stream, &relay, &rig.key("floors")]).await,
        "the stream" => rig.run(&["DEL", &stream]).await,
        "the record" => rig.run(&["DEL", &relay]).await,
        "what is in the record" => {
            rig.run(&["HSET", &relay, &rig.publisher.store.to_string(), "5 7 nonsense - -"]).await;
        }
        "the stream, by renaming" => rig.run(&["RENAME", &stream, &rig.key("away")]).await,
        "what the stream holds" => rig.run(&["XTRIM", &stream, "MAXLEN", "0"]).await,
        "the last entry" => rig.run(&["XDEL", &stream, &last]).await,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_lost_is_seen_and_published_again_from_the_floor() {
    for how in [
        "everything",
        "the stream",
        "the record",
        "what is in the record",
        "the stream, by renaming",
        "what the stream holds",
        "the last entry",
    ] {
        for foreign in [0, 50] {
            let rig = Rig::adopted().await;
            rig.bus.create_group(&Name::from_static("reports"), GroupStart::Beginning).await.unwrap();
            rig.make("python").await;
            rig.publish(0, 100).await;
            rig.handle("reports", 60).await;
            rig.handle("python", 100).await;
            assert_eq!(rig.floor("reports").await, GroupFloor::At(at(60)));

            lose(&rig, how).await;
            rig.add_foreign(foreign).await;
            assert_eq!(rig.publish(100, 110).await, "lost", "{how}");
            assert_eq!(rig.publish(100, 100).await, "lost", "{how}: also when there is nothing to publish");
            assert_eq!(rig.seen(&[]).await, GroupFloors::Lost, "{how}");
            assert_eq!(rig.adopt(60, &["reports", "python"]).await, ResyncOutcome::At(at(60)), "{how}");
            assert_eq!(rig.adopt(10, &["reports"]).await, ResyncOutcome::Moved(at(60)), "{how}: already repaired");
            assert_eq!(rig.publish(100, 110).await, "moved to 60", "{how}");
            assert_eq!(rig.publish(60, 110).await, "published", "{how}");
            let mut handled = rig.handle("reports", ALL).await;
            handled.sort_unstable();
            handled.dedup();
            assert_eq!(handled, (61..=110).collect::<Vec<_>>(), "{how}");
            assert!(rig.handle("python", ALL).await.ends_with(&(101..=110).collect::<Vec<_>>()), "{how}");
            assert_eq!(rig.floor("reports").await, GroupFloor::At(at(110)), "{how}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flushing_while_it_publishes_loses_nothing_and_stays_in_order() {
    const LAST: u64 = 3_000;
    let server = eventbus_test::private_redis();
    let rig = Rig::on(crate::common::config_on(server.url())).await;
    let is_over = AtomicBool::new(false);
    let publishing = async {
        let (mut position, mut losses) = (0, 0);
        while position < LAST {
            let through = (position + 10).min(LAST);
            match rig.try_publish(position, through).await.unwrap() {
                RangeOutcome::Published(_) => position = through,
                RangeOutcome::Moved(to) => position = to.get(),
                RangeOutcome::Lost => match rig.adopt(0, &["reports"]).await {
                    ResyncOutcome::At(to) | ResyncOutcome::Moved(to) => (position, losses) = (to.get(), losses + 1),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        is_over.store(true, Ordering::Release);
        losses
    };
    let flushing = async {
        let mut flushed = 0;
        while flushed < 10 && !is_over.load(Ordering::Acquire) {
            let length: u64 = rig.command(&["XLEN", &rig.stream]).await;
            if length > 100 {
                rig.run(&["FLUSHALL"]).await;
                flushed += 1;
            }
            tokio::task::yield_now().await;
        }
        flushed
    };
    let (losses, flushed) = tokio::join!(publishing, flushing);
    assert!(flushed == 10 && losses > 10, "{flushed} flushed, {losses} lost");
    assert_eq!(rig.positions().await, (1..=LAST).collect::<Vec<_>>());
    assert_eq!(rig.handle("reports", ALL).await, (1..=LAST).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_known_group_begins_at_the_same_place_whoever_makes_it() {
    let group = Name::from_static("reports");
    for consumer_is_first in [true, false] {
        for loses_stream in [true, false] {
            let rig = Rig::adopted().await;
            rig.bus.create_group(&group, GroupStart::Beginning).await.unwrap();
            rig.publish(0, 30).await;
            rig.handle("reports", 12).await;
            rig.floors(&[]).await;
            rig.run(&["DEL", &rig.key("relay")]).await;
            if loses_stream {
                rig.run(&["DEL", &rig.stream]).await;
            } else {
                rig.run(&["XGROUP", "DESTROY", &rig.stream, "reports"]).await;
            }
            if consumer_is_first {
                rig.bus.create_group(&group, GroupStart::Now).await.unwrap();
            }
            rig.adopt(12, &["reports"]).await;
            assert!(!rig.bus.create_group(&group, GroupStart::Now).await.unwrap(), "it is there");
            rig.publish(12, 30).await;
            let handled = rig.handle("reports", ALL).await;
            let again: Vec<u64> = (13..=30).collect();
            let expected = if loses_stream { again } else { [again.clone(), again].concat() };
            assert_eq!(handled, expected, "consumer first: {consumer_is_first}, stream lost: {loses_stream}");
        }
    }
}

#[tokio::test]
async fn what_a_known_group_has_yet_to_read_is_not_trimmed_though_another_process_made_it() {
    let rig = Rig::on(config()).await;
    // as `connect` makes the default group, which holds no entry until a consumer joins it
    let group = rig.bus.default_group().clone();
    rig.adopt(0, &[&group]).await;
    rig.publish(0, 20).await;
    let trimmed = rig.bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    assert_eq!(trimmed.removed, 0);
    assert_eq!(rig.handle(&group, ALL).await.len(), 20);
}

#[tokio::test]
async fn a_group_that_no_consumer_joined_is_told_only_to_who_knows_it_and_without_a_position() {
    let rig = Rig::adopted().await;
    let group = rig.bus.default_group().clone();
    rig.publish(0, 5).await;
    assert!(rig.floors(&[]).await.is_empty());
    assert_eq!(rig.floor(&group).await, GroupFloor::Unknown);
    rig.read(&group, 1).await;
    assert_eq!(rig.floors(&[]).await[group.as_str()], GroupFloor::At(at(0)));
}

#[tokio::test]
async fn a_server_that_went_back_says_where_it_is() {
    let mut server = eventbus_test::private_redis();
    let rig = Rig::on(crate::common::config_on(server.url())).await;
    rig.adopt(0, &["reports"]).await;
    rig.publish(0, 40).await;
    let folder: (String, String) = rig.command(&["CONFIG", "GET", "dir"]).await;
    let log = std::path::Path::new(&folder.1).join("appendonlydir").join("appendonly.aof.1.incr.aof");
    let older = std::fs::read(&log).unwrap();
    rig.publish(40, 90).await;
    rig.handle("reports", 90).await;
    server.stop();
    std::fs::write(&log, older).unwrap();
    server.start();
    let bus = RedisEventBus::connect(rig.bus.config().clone()).await.unwrap();
    let rig = Rig { publisher: rig.publisher, ..Rig::on(bus.config().clone()).await };
    assert_eq!(rig.publish(90, 95).await, "moved to 40");
    let stale = rig.another(Publisher { epoch: 4, ..rig.publisher });
    assert_eq!(stale.publish(40, 95).await, "fenced");
    assert_eq!(rig.publish(40, 95).await, "published");
    assert_eq!(rig.positions().await, (1..=95).collect::<Vec<_>>());
    assert_eq!(rig.handle("reports", ALL).await, (1..=95).collect::<Vec<_>>());
}
