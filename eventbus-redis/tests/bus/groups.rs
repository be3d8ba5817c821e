//! The start of groups that are made by hand, and the retiring of groups.

use crate::common::{
    config, fresh_bus,
    seen::{command, event},
};
use eventbus::{Name, port::EventBus};
use eventbus_redis::{GroupError, GroupStart, RedisCommandError, RedisEventBus};
use time::OffsetDateTime;

const GROUP: Name = Name::from_static("reports");

/// An id, and fields that the test does not read.
type Entry = (String, redis::Value);

async fn add(bus: &RedisEventBus, id: &str) {
    let stream = bus.config().stream_name();
    let _: String = command(bus, "XADD", &[&stream, id, "name", "value"]).await;
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
        add(&bus, id).await;
    }
    assert_eq!(begins(&bus, GroupStart::Beginning).await, ids);
    assert_eq!(begins(&bus, GroupStart::Now).await, [""; 0]);
    bus.create_group(&GROUP, GroupStart::Now).await.unwrap();
    let published = bus.publish(&[event("order-1")]).await.unwrap();
    assert_eq!(read(&bus, &GROUP).await, [published[0].as_str()]);
}

#[tokio::test]
async fn a_group_that_is_there_is_left_alone() {
    let bus = fresh_bus().await;
    bus.publish(&[event("order-1"), event("order-2")]).await.unwrap();
    assert!(bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap());
    assert!(!bus.create_group(&GROUP, GroupStart::Now).await.unwrap());
    assert_eq!(read(&bus, &GROUP).await.len(), 2);
}

#[tokio::test]
async fn a_retired_group_is_forgotten_and_what_it_left_is_said() {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    let retry = format!("{{{stream}}}:retry:{}", &*GROUP);
    let members = format!("{{{stream}}}:members:{}", &*GROUP);
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
        for key in [&retry, &members] {
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
    let live = format!(r#"{{"at":{now},"live_ms":600000}}"#);
    let _: i64 = command(&bus, "HSET", &[&members, "live", &live, "dead", r#"{"at":1,"live_ms":5}"#]).await;
    let error = bus.retire_group(&GROUP).await.unwrap_err();
    assert!(matches!(&error, GroupError::InUse { consumers: 1, .. }), "{error:?}");
    assert!(!bus.create_group(&GROUP, GroupStart::Now).await.unwrap(), "it is still there");
    let _: i64 = command(&bus, "HDEL", &[&members, "live"]).await;
    bus.retire_group(&GROUP).await.unwrap();
}

#[tokio::test]
async fn a_closed_bus_creates_no_group() {
    let bus = fresh_bus().await;
    bus.disconnect().await;
    let error = bus.create_group(&GROUP, GroupStart::Now).await.unwrap_err();
    assert!(matches!(error, GroupError::Command(RedisCommandError::ShutDown { .. })), "{error:?}");
}

#[tokio::test]
async fn what_a_group_has_read_and_not_finished_is_listed_by_consumer_and_by_entry() {
    let config = config();
    let bus = RedisEventBus::connect(config).await.unwrap();
    let events: Vec<_> = (1..=8).map(|number| event(&format!("order-{number}"))).collect();
    bus.publish(&events).await.unwrap();
    bus.create_group(&GROUP, GroupStart::Beginning).await.unwrap();
    let stream = bus.config().stream_name();
    let read = ["GROUP", "reports", "worker", "STREAMS", &stream, ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    let consumers = bus.group_consumers(&GROUP).await.unwrap();
    let listed: Vec<_> = consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.pending)).collect();
    assert_eq!(listed, [("worker", 8)]);
    let pending = bus.pending_deliveries(&GROUP, 10).await.unwrap();
    let mut orders: Vec<_> = pending
        .iter()
        .map(|delivery| delivery.record.as_ref().unwrap().metadata().aggregate_id().to_string())
        .collect();
    orders.sort();
    let all: Vec<_> = (1..=8).map(|number| format!("order-{number}")).collect();
    assert_eq!(orders, all);
    assert!(pending.iter().all(|delivery| delivery.consumer == "worker" && delivery.attempts.attempts == 0));
    assert_eq!(bus.pending_deliveries(&GROUP, 1).await.unwrap().len(), 1);

    // an entry that is no event
    let _: String = command(&bus, "XADD", &[&stream, "*", "type", "none"]).await;
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    assert_eq!(bus.group_consumers(&GROUP).await.unwrap()[0].pending, 9);
    let pending = bus.pending_deliveries(&GROUP, 10).await.unwrap();
    assert_eq!((pending.len(), pending[8].record.is_none()), (9, true));
    let stranger = Name::from_static("stranger");
    assert_eq!(bus.group_consumers(&stranger).await.unwrap(), []);
    assert!(bus.pending_deliveries(&stranger, 1).await.unwrap().is_empty());
}
