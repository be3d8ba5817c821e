//! The floors of groups.

use eventbus::relay::{GroupFloor, Publisher};
use uuid::Uuid;

use crate::rig::{Rig, at};

#[tokio::test]
async fn a_floor_is_below_the_oldest_event_that_is_unread_or_pending() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(0)), "an empty stream");
    rig.publish(0, 10).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(0)));
    let read = rig.read("reports", 6).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(0)));
    rig.acknowledge("reports", &read[..2]).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(2)));
    rig.acknowledge("reports", &read[3..]).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(2)), "the third is pending");
    rig.acknowledge("reports", &read[2..3]).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(6)));
    rig.handle("reports", 10).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(10)));
    // positions have gaps
    let range = eventbus::relay::PublishRange { after: at(10), through: at(90), events: &[crate::rig::event(70)] };
    rig.target().publish_range(rig.publisher, range).await.unwrap();
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(69)));
    rig.handle("reports", 10).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(90)));
}

#[tokio::test]
async fn what_others_published_is_passed_over_as_far_as_it_is_quick() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.publish(0, 1).await;
    rig.add_foreign(120).await;
    let other = rig.another(Publisher { store: Uuid::now_v7(), epoch: 1 });
    other.adopt_as(500, &[], true).await;
    other.publish(500, 620).await;
    rig.publish(1, 2).await;
    rig.handle("reports", 1).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(1)));
    rig.add_foreign(600).await;
    rig.handle("reports", 240).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(1)));
    rig.handle("reports", 1).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(2)), "all that follows is others'");
    rig.publish(2, 3).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Unknown, "the next one is far away");
    rig.handle("reports", 200).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(2)));
}

/// The server executes no other command while the script searches.
#[tokio::test]
async fn an_event_behind_many_bytes_of_others_is_far_away() {
    let rig = Rig::adopted().await;
    rig.make("reports").await;
    rig.publish(0, 1).await;
    let text = "x".repeat(512 * 1024);
    for _ in 0..20 {
        rig.run(&["XADD", &rig.stream, "*", "event_type", "Foreign", "text", &text]).await;
    }
    rig.publish(1, 2).await;
    rig.handle("reports", 1).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::Unknown, "10 MiB of others come first");
    rig.handle("reports", 15).await;
    assert_eq!(rig.floor("reports").await, GroupFloor::At(at(1)));
    rig.run(&["DEL", &rig.stream]).await;
}

#[tokio::test]
async fn groups_that_are_there_or_known_are_told() {
    let rig = Rig::adopted().await;
    rig.publish(0, 3).await;
    for group in ["here", "new"] {
        rig.make(group).await;
        rig.read(group, 1).await;
    }
    let floors = rig.floors(&["gone", "here"]).await;
    assert_eq!(floors.len(), 3);
    assert_eq!(floors["gone"], GroupFloor::Missing);
    assert_eq!((floors["here"], floors["new"]), (GroupFloor::At(at(0)), GroupFloor::At(at(0))));
    rig.make("\u{7}not a name").await;
    rig.read("\u{7}not a name", 1).await;
    assert_eq!(rig.floors(&[]).await.len(), 2);
    // known groups keep their unread entries from then on
    rig.run(&["XGROUP", "DESTROY", &rig.stream, "here"]).await;
    let trimmed = rig.bus.trim(eventbus_redis::Trim { max_length: Some(0), max_age: None }).await.unwrap();
    assert_eq!(trimmed.held_by.unwrap().group, "here");
}

/// The server's time for a call with 200,000 entries, five groups and 50,000 pending entries.
#[tokio::test]
#[ignore = "takes long; for numbers"]
async fn what_a_call_takes() {
    let server = eventbus_test::private_redis();
    let rig = Rig::on(crate::common::config_on(server.url())).await;
    rig.adopt(0, &["0", "1", "2", "3", "4"]).await;
    for batch in 0..1_000 {
        rig.publish(batch * 200, batch * 200 + 200).await;
    }
    for (group, read) in [("0", 0), ("1", 50_000), ("2", 100_000), ("3", 150_000), ("4", 200_000)] {
        for _ in 0..read / 10_000 {
            let read = rig.read(group, 10_000).await;
            if group != "1" {
                let mut acknowledge = vec!["XACK", &rig.stream, group];
                acknowledge.extend(read.iter().map(|(id, _)| id.as_str()));
                rig.run(&acknowledge).await;
            }
        }
    }
    for what in ["floors", "asking", "trimming 200", "floors after others trimmed"] {
        rig.run(&["CONFIG", "RESETSTAT"]).await;
        if what.starts_with("floors after") {
            rig.run(&["XTRIM", &rig.stream, "MAXLEN", "190000"]).await;
        }
        for _ in 0..50 {
            match what {
                "asking" => drop(rig.publish(200_000, 200_000).await),
                "trimming 200" => {
                    drop(rig.bus.trim(eventbus_redis::Trim { max_length: Some(199_800), max_age: None }).await)
                }
                _ => drop(rig.seen(&["0", "1", "2", "3", "4"]).await),
            }
            if what == "trimming 200" {
                break;
            }
        }
        let stats: String = rig.command(&["INFO", "commandstats"]).await;
        let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
        eprintln!("{what}: {line:?}");
    }
    rig.run(&["CONFIG", "RESETSTAT"]).await;
    for batch in 0..100 {
        rig.publish(200_000 + batch * 256, 200_256 + batch * 256).await;
    }
    let stats: String = rig.command(&["INFO", "commandstats"]).await;
    eprintln!("publishing 256: {:?}", stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")));
}
