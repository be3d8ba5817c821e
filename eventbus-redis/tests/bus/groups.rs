//! The start of groups that are made by hand, and the retiring of groups.

use std::slice;

use crate::{
    common::{
        config, fresh_bus,
        seen::{Seen, command, event, start},
        until,
    },
    lines::Lines,
};
use eventbus::{
    Name, Position, RecordedEvent,
    port::{Announced, EventBus, MessageId},
};
use eventbus_redis::{GroupError, GroupStart, RedisCommandError, RedisEventBus, RedisEventBusConfig};
use time::OffsetDateTime;

const GROUP: Name = Name::from_static("reports");

/// An id, and fields that the test does not read.
type Entry = (String, redis::Value);

fn at(position: u64) -> RecordedEvent {
    let event = event("order-1");
    RecordedEvent::new(event.metadata().clone().with_position(Some(Position::new(position))), "{}")
}

async fn add(bus: &RedisEventBus, id: &str, position: &str) {
    let stream = bus.config().stream_name();
    let _: String = command(bus, "XADD", &[&stream, id, "position", position]).await;
}

/// The ids that the group gets when it reads all entries.
async fn read(bus: &RedisEventBus, group: &Name) -> Vec<String> {
    let stream = bus.config().stream_name();
    let read = ["GROUP", group.as_str(), "reader", "STREAMS", &stream, ">"];
    let reply: Option<Vec<(String, Vec<Entry>)>> = command(bus, "XREADGROUP", &read).await;
    let entries = reply.into_iter().flatten().flat_map(|(_, entries)| entries);
    entries.map(|(id, _)| id).collect()
}

/// Makes a group, and returns the ids that it gets.
async fn begins(bus: &RedisEventBus, start: GroupStart) -> Vec<String> {
    let group = Name::new("group", eventbus_test::unique_name("group")).unwrap();
    assert!(bus.create_group(&group, start).await.unwrap());
    read(bus, &group).await
}

#[tokio::test]
async fn a_group_begins_where_it_is_told() {
    let bus = fresh_bus().await;
    let ids = ["7-0", "7-1", "8-0", "10-0"];
    for id in ids {
        add(&bus, id, "").await;
    }
    assert_eq!(begins(&bus, GroupStart::Beginning).await, ids);
    assert_eq!(begins(&bus, GroupStart::Now).await, [""; 0]);
    assert_eq!(begins(&bus, GroupStart::After(MessageId::new("7-0"))).await, ids[1..]);
    let time = |ms: i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
    assert_eq!(begins(&bus, GroupStart::AtTime(time(7))).await, ids);
    assert_eq!(begins(&bus, GroupStart::AtTime(time(8))).await, ids[2..]);
    assert_eq!(begins(&bus, GroupStart::AtTime(time(9))).await, ids[3..]);
    assert_eq!(begins(&bus, GroupStart::AtTime(time(-5))).await, ids);
    assert_eq!(begins(&bus, GroupStart::AtTime(time(11))).await, [""; 0]);
    bus.create_group(&GROUP, GroupStart::Now).await.unwrap();
    let published = bus.publish(&[event("order-1")]).await.unwrap();
    assert_eq!(read(&bus, &GROUP).await, [published[0].as_str()]);
}

#[tokio::test] // on one thread, for the log
async fn a_new_group_that_gets_earlier_entries_is_a_warning() {
    let log = Lines::default();
    let _logging = log.capture("eventbus_redis=info");
    let warnings = |group: &Name| {
        let text = format!("`start = \"now\"` on all its handlers skips them group={group}");
        log.text().matches(&text).count()
    };
    // as an app does at its start
    let announce = async |bus: &RedisEventBus, group: &Name| {
        bus.announce(&Announced::by_subscribers(group, &bus.subscribers()), None).await.unwrap();
    };
    let (bus, seen) = (fresh_bus().await, Seen::default());
    let default = bus.default_group().clone();
    Seen::default().join(&bus);
    seen.join_as(&bus, GROUP);
    announce(&bus, &default).await;
    announce(&bus, &GROUP).await;
    assert!(!log.text().contains("the group is new"), "the stream is empty: {}", log.text());
    bus.publish(&[event("1"), event("2"), event("3")]).await.unwrap();
    // the bus made the default group when it connected, but no consumer has joined it
    for group in [&default, &GROUP] {
        announce(&bus, group).await;
        assert_eq!(warnings(group), 1, "{}", log.text());
    }
    let consumer = start(&bus).await;
    until("the group has got the entries", async || seen.all().len() == 3).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
    announce(&bus, &GROUP).await;
    assert_eq!(warnings(&GROUP), 1, "it is not new any more: {}", log.text());
}

#[tokio::test]
async fn a_group_begins_after_a_position_also_far_down_the_stream() {
    let bus = fresh_bus().await;
    let events: Vec<_> = (1..=1_300).map(|n| at(n * 10)).collect();
    let ids = bus.publish(&events).await.unwrap();
    let first = async |position| begins(&bus, GroupStart::Position(Position::new(position))).await.first().cloned();
    for (position, index) in [(0, 0), (9, 0), (10, 1), (4_999, 499), (5_000, 500), (5_001, 500), (12_999, 1_299)] {
        assert_eq!(first(position).await.as_deref(), Some(ids[index].as_str()), "{position}");
    }
    assert_eq!(first(13_000).await, None);
    assert_eq!(first(u64::MAX).await, None);
}

#[tokio::test]
async fn the_oldest_event_of_a_stream_is_the_first_one_with_a_position() {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    let oldest = async || bus.oldest_positions().await.unwrap()[&stream];
    assert_eq!(oldest().await, None);
    // more than a page of entries of a different publisher
    bus.publish(&vec![event("order-1"); 25]).await.unwrap();
    assert_eq!(oldest().await, None);
    bus.publish(&[at(7), at(8)]).await.unwrap();
    assert_eq!(oldest().await, Some(Position::new(7)));
    let _: u64 = command(&bus, "XTRIM", &[&stream, "MAXLEN", "1"]).await;
    assert_eq!(oldest().await, Some(Position::new(8)));
}

#[tokio::test]
async fn positions_are_numbers_and_what_is_none_is_passed_over() {
    let bus = fresh_bus().await;
    for (id, position) in
        [("1-0", "9"), ("2-0", "many"), ("3-0", "0010"), ("4-0", "18446744073709551615"), ("5-0", "-1")]
    {
        add(&bus, id, position).await;
    }
    let begins = async |position| begins(&bus, GroupStart::Position(Position::new(position))).await;
    assert_eq!(begins(8).await, ["1-0", "2-0", "3-0", "4-0", "5-0"]);
    assert_eq!(begins(9).await, ["3-0", "4-0", "5-0"]);
    assert_eq!(begins(10).await, ["4-0", "5-0"]);
    assert_eq!(begins(u64::MAX - 1).await, ["4-0", "5-0"]);
    assert_eq!(begins(u64::MAX).await, [""; 0]);
}

#[tokio::test]
async fn a_group_that_is_there_is_left_alone() {
    let bus = fresh_bus().await;
    bus.publish(&[event("order-1"), event("order-2")]).await.unwrap();
    assert!(bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap());
    assert!(!bus.create_group(&GROUP, GroupStart::Now).await.unwrap());
    assert_eq!(read(&bus, &GROUP).await.len(), 2);
    let default = bus.default_group().clone();
    assert!(!bus.create_group(&default, GroupStart::Now).await.unwrap(), "connecting has made it");
    assert_eq!(read(&bus, &default).await.len(), 2);
}

#[tokio::test]
async fn a_known_group_is_never_made_anew_at_now() {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    let ids = bus.publish(&[event("a"), event("b"), event("c")]).await.unwrap();
    bus.create_group(&GROUP, GroupStart::After(ids[0].clone())).await.unwrap();
    let _: i64 = command(&bus, "XGROUP", &["DESTROY", &stream, &GROUP]).await;
    assert!(bus.create_group(&GROUP, GroupStart::Now).await.unwrap());
    assert_eq!(read(&bus, &GROUP).await, [ids[1].as_str(), ids[2].as_str()], "it goes on where it was");
    // the server also loses the stream, and a new one begins with lower ids
    let _: i64 = command(&bus, "DEL", &[&stream]).await;
    add(&bus, "1-0", "").await;
    assert!(bus.create_group(&GROUP, GroupStart::Now).await.unwrap());
    assert_eq!(read(&bus, &GROUP).await, ["1-0"], "it has read nothing of that stream");
}

#[tokio::test]
async fn a_retired_group_is_forgotten_and_what_it_left_is_said() {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    let (floors, retry, members) = (
        format!("{{{stream}}}:floors"),
        format!("{{{stream}}}:retry:{}", &*GROUP),
        format!("{{{stream}}}:members:{}", &*GROUP),
    );
    for deletes in [false, true] {
        let ids = bus.publish(&[event("a"), event("b"), event("c"), event("d")]).await.unwrap();
        bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
        let read = ["GROUP", "reports", "gone", "COUNT", "2", "STREAMS", &stream, ">"];
        let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
        let _: i64 = command(&bus, "HSET", &[&retry, ids[0].as_str(), "{}"]).await;
        let _: i64 = command(&bus, "HSET", &[&members, "gone", r#"{"at":1,"live_ms":5}"#, "odd", "no json"]).await;
        if deletes {
            // the server can no longer count the unread entries
            let _: i64 = command(&bus, "XDEL", &[&stream, ids[2].as_str()]).await;
        }
        let retired = bus.retire_group(&GROUP).await.unwrap();
        let unread = if deletes { 1 } else { 2 };
        assert_eq!((retired.pending, retired.unread), (2, unread));
        for key in [&floors, &retry, &members] {
            assert_eq!(command::<i64>(&bus, "EXISTS", &[key]).await, 0, "{key}");
        }
        let info = bus.stream_info().await;
        assert!(info.consumer_groups.iter().all(|group| GROUP != group.name.as_str()), "{info:?}");
        let error = bus.retire_group(&GROUP).await.unwrap_err();
        assert!(matches!(&error, GroupError::NotFound { group, .. } if *group == GROUP), "{error:?}");
        let _: i64 = command(&bus, "XTRIM", &[&stream, "MAXLEN", "=", "0"]).await;
    }
}

#[tokio::test]
async fn what_others_removed_does_not_count_as_left() {
    let bus = fresh_bus().await;
    bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
    bus.publish(&[event("a"), event("b"), event("c")]).await.unwrap();
    let stream = bus.config().stream_name();
    let read = ["GROUP", "reports", "gone", "COUNT", "1", "STREAMS", &stream, ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    let _: i64 = command(&bus, "XTRIM", &[&stream, "MAXLEN", "=", "1"]).await;
    let retired = bus.retire_group(&GROUP).await.unwrap();
    assert_eq!((retired.pending, retired.unread), (1, 1));
}

#[tokio::test]
async fn a_group_with_live_members_is_not_retired() {
    let bus = fresh_bus().await;
    bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
    let members = format!("{{{}}}:members:{}", bus.config().stream_name(), &*GROUP);
    let now = OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    let live = format!(r#"{{"at":{now},"live_ms":600000,"event_types":["OrderCreated"]}}"#);
    let _: i64 = command(&bus, "HSET", &[&members, "live", &live, "dead", r#"{"at":1,"live_ms":5}"#]).await;
    let error = bus.retire_group(&GROUP).await.unwrap_err();
    assert!(matches!(&error, GroupError::InUse { consumers: 1, .. }), "{error:?}");
    assert!(!bus.create_group(&GROUP, GroupStart::Now).await.unwrap(), "it is still there");
    let _: i64 = command(&bus, "HDEL", &[&members, "live"]).await;
    bus.retire_group(&GROUP).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let bus = fresh_bus().await;
    for id in ["", "$", "0", ">", "1-0-0", "order-1"] {
        let error = bus.create_group(&GROUP, GroupStart::After(MessageId::new(id))).await.unwrap_err();
        assert!(matches!(&error, GroupError::InvalidStart { id: said, .. } if said.as_str() == id), "{error:?}");
    }
    assert!(bus.create_group(&GROUP, GroupStart::Now).await.unwrap(), "nothing was made before");
    bus.disconnect().await;
    let error = bus.create_group(&GROUP, GroupStart::Now).await.unwrap_err();
    assert!(matches!(error, GroupError::Command(RedisCommandError::ShutDown { .. })), "{error:?}");
}

#[tokio::test]
async fn a_group_that_one_partition_has_lost_is_lost() {
    let bus = RedisEventBus::connect(RedisEventBusConfig { partitions: 2, ..config() }).await.unwrap();
    assert!(bus.lost_groups().await.unwrap().is_empty());
    bus.create_group(&GROUP, GroupStart::Now).await.unwrap();
    assert!(bus.lost_groups().await.unwrap().is_empty());
    let second = format!("{}:1", bus.config().stream_name());
    assert_eq!(command::<u64>(&bus, "XGROUP", &["DESTROY", &second, &GROUP]).await, 1);
    assert_eq!(bus.lost_groups().await.unwrap(), [GROUP]);
    bus.retire_group(&GROUP).await.unwrap();
    assert!(bus.lost_groups().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_group_is_unjoined_until_it_counts_in_a_partition() {
    for partitions in [1, 2] {
        let bus = RedisEventBus::connect(RedisEventBusConfig { partitions, ..config() }).await.unwrap();
        let default = Name::new("group", bus.config().consumer_group.clone()).unwrap();
        assert_eq!(bus.unjoined_groups().await.unwrap(), slice::from_ref(&default));
        // one that an operator makes, and one of a program that is no bus
        bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
        let last = if partitions == 1 { String::new() } else { ":1".to_owned() };
        let stream = bus.config().stream_name() + &last;
        let _: String = command(&bus, "XGROUP", &["CREATE", &stream, "other", "0"]).await;
        assert_eq!(bus.unjoined_groups().await.unwrap(), slice::from_ref(&default));
        let _: u64 = command(&bus, "XGROUP", &["CREATECONSUMER", &stream, &default, "reader"]).await;
        assert!(bus.unjoined_groups().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_a_group_has_read_and_not_finished_is_listed_by_consumer_and_by_entry() {
    for partitions in [1, 2] {
        let config = RedisEventBusConfig { partitions, ..config() };
        let bus = RedisEventBus::connect(config).await.unwrap();
        let events: Vec<_> = (1..=8).map(|number| event(&format!("order-{number}"))).collect();
        bus.publish(&events).await.unwrap();
        bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
        let base = bus.config().stream_name();
        let streams = match partitions {
            1 => vec![base.clone()],
            _ => (0..partitions).map(|number| format!("{base}:{number}")).collect(),
        };
        for stream in &streams {
            let read = ["GROUP", "reports", "worker", "STREAMS", stream, ">"];
            let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
        }
        let consumers = bus.group_consumers(&GROUP).await.unwrap();
        let listed: Vec<_> = consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.pending)).collect();
        assert_eq!(listed, [("worker", 8)], "{partitions} partitions");
        let pending = bus.pending_deliveries(&GROUP, 10).await.unwrap();
        let mut orders: Vec<_> = pending
            .iter()
            .map(|delivery| delivery.record.as_ref().unwrap().metadata().aggregate_id().to_string())
            .collect();
        orders.sort();
        let all: Vec<_> = (1..=8).map(|number| format!("order-{number}")).collect();
        assert_eq!(orders, all, "{partitions} partitions");
        assert!(pending.iter().all(|delivery| delivery.consumer == "worker" && delivery.attempts.attempts == 0));
        assert_eq!(bus.pending_deliveries(&GROUP, 1).await.unwrap().len(), streams.len(), "one of each stream");

        // an entry of the group's backlog, which is no event
        let backlog = format!("{{{base}}}:backlog:reports");
        let _: String = command(&bus, "XADD", &[&backlog, "*", "type", "none"]).await;
        let _: String = command(&bus, "XGROUP", &["CREATE", &backlog, "reports", "0"]).await;
        let read = ["GROUP", "reports", "worker", "STREAMS", &backlog, ">"];
        let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
        assert_eq!(bus.group_consumers(&GROUP).await.unwrap()[0].pending, 9, "{partitions} partitions");
        let pending = bus.pending_deliveries(&GROUP, 10).await.unwrap();
        assert_eq!((pending.len(), pending[8].record.is_none()), (9, true), "{partitions} partitions");
        let stranger = Name::from_static("stranger");
        assert_eq!(bus.group_consumers(&stranger).await.unwrap(), []);
        assert!(bus.pending_deliveries(&stranger, 1).await.unwrap().is_empty());
    }
}
