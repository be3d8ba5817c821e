//! Publishing to partitions, and the record of their number.

use std::{collections::BTreeMap, time::Duration};

use crate::common::{
    config, said,
    seen::{command, event, order},
};
use eventbus::port::{EventBus, MessageId, PublishError};
use eventbus_redis::{PartitionCountMismatch, RedisConnectError, RedisEventBus, RedisEventBusConfig};

fn partitioned(partitions: u32) -> RedisEventBusConfig {
    RedisEventBusConfig { partitions, ..config() }
}

async fn refused(config: RedisEventBusConfig) -> PartitionCountMismatch {
    match RedisEventBus::connect(config).await {
        Err(RedisConnectError::PartitionCountMismatch(layout)) => layout,
        other => panic!("{other:?}"),
    }
}

/// The entries of a stream: their ids and aggregates.
async fn entries(bus: &RedisEventBus, stream: &str) -> Vec<(String, String)> {
    let entries: Vec<(String, BTreeMap<String, String>)> = command(bus, "XRANGE", &[stream, "-", "+"]).await;
    entries.into_iter().map(|(id, fields)| (id, fields["aggregate_id"].clone())).collect()
}

fn place(id: &MessageId) -> (u64, u64) {
    let (ms, number) = id.as_str().split_once('-').unwrap();
    (ms.parse().unwrap(), number.parse().unwrap())
}

#[tokio::test]
async fn each_event_is_in_the_stream_of_its_aggregate_and_the_ids_are_in_the_order_given() {
    let bus = RedisEventBus::connect(partitioned(4)).await.unwrap();
    let events: Vec<_> = (0..300).map(|number| event(&format!("{}", number % 50))).collect();
    let mut ids = bus.publish(&events).await.unwrap();
    ids.extend(bus.publish(&events).await.unwrap());
    assert!(ids.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{ids:?}");
    let mut found = BTreeMap::new();
    for number in 0..4 {
        let stream = format!("{}:{number}", bus.config().stream_name());
        for (id, aggregate) in entries(&bus, &stream).await {
            assert_eq!(bus.config().stream_of(&order(&aggregate)), stream);
            found.insert(place(&MessageId::new(id)), aggregate);
        }
    }
    let published: Vec<_> = ids.iter().zip(events.iter().chain(&events)).collect();
    let published = published.into_iter().map(|(id, event)| (place(id), event.metadata().aggregate_id().to_string()));
    assert_eq!(found, published.collect());
    assert_eq!(bus.stats().events_published, 600);
    assert_eq!(bus.stream_info().await.stream.length, 600);
}

#[tokio::test]
async fn history_reads_all_partitions_in_the_order_of_publishing() {
    let bus = RedisEventBus::connect(partitioned(3)).await.unwrap();
    let ids: Vec<_> = (0..40).map(|number| format!("{number:02}")).collect();
    for ids in ids.chunks(7) {
        bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
    }
    let aggregates = |entries: Vec<eventbus_redis::HistoryEntry>| -> Vec<String> {
        entries.into_iter().map(|entry| entry.event.unwrap().metadata().aggregate_id().to_string()).collect()
    };
    let mut history = bus.history();
    let mut read = Vec::new();
    loop {
        let page = history.page(9).await.unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(aggregates(page));
    }
    assert_eq!(read, ids);
    assert_eq!(aggregates(bus.history().last(5).await.unwrap()), ids[35..]);
    let mut follow = bus.history().follow();
    let mut followed = Vec::new();
    for _ in 0..40 {
        let next = tokio::time::timeout(Duration::from_secs(10), follow.next()).await.unwrap();
        followed.extend(aggregates(vec![next.unwrap()]));
    }
    assert_eq!(followed, ids);
}

#[tokio::test]
async fn a_bus_with_another_number_of_partitions_is_refused_and_told_what_to_do() {
    let config = partitioned(4);
    let bus = RedisEventBus::connect(config.clone()).await.unwrap();
    RedisEventBus::connect(config.clone()).await.unwrap();
    for partitions in [1, 2, 8] {
        let error = refused(RedisEventBusConfig { partitions, ..config.clone() }).await;
        assert_eq!((error.recorded, error.configured), (4, partitions));
        assert!(said(&error).contains("`repartition`"), "{error}");
    }
    bus.publish(&[event("a")]).await.unwrap();
}

#[tokio::test]
async fn a_stream_without_partitions_leaves_no_trace_of_them_and_gets_none_in_passing() {
    let config = config();
    let bus = RedisEventBus::connect(config.clone()).await.unwrap();
    bus.publish(&[event("a")]).await.unwrap();
    let mut keys: Vec<String> = command(&bus, "KEYS", &[&format!("*{}*", config.stream_prefix)]).await;
    keys.sort();
    let beside = ["meta", "unjoined"].map(|name| format!("{{{}}}:{name}", config.stream_name()));
    assert_eq!(keys, [&[config.stream_name()][..], &beside].concat());
    let error = refused(RedisEventBusConfig { partitions: 4, ..config.clone() }).await;
    assert_eq!((error.recorded, error.configured), (1, 4));
    bus.publish(&[event("b")]).await.unwrap();
}

#[tokio::test]
async fn a_publisher_that_knows_nothing_of_partitions_is_refused_where_there_are_some() {
    let config = config();
    let plain = RedisEventBus::connect(config.clone()).await.unwrap();
    // the stream has no entry, so it may still get partitions
    RedisEventBus::connect(RedisEventBusConfig { partitions: 4, ..config }).await.unwrap();
    for events in [vec![event("a")], vec![event("a"), event("b")]] {
        let refused = plain.publish(&events).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_lost_layout_is_recorded_again_and_ids_go_on() {
    let bus = RedisEventBus::connect(partitioned(4)).await.unwrap();
    let layout = format!("{}:layout", bus.config().stream_name());
    let before = bus.publish(&[event("a")]).await.unwrap();
    // the clock of the layout was far ahead
    let stream = bus.config().stream_of(&order("a"));
    let _: String = command(&bus, "XADD", &[&stream, "99999999999999-7", "none", "none"]).await;
    let _: u64 = command(&bus, "DEL", &[&layout]).await;
    let after = bus.publish(&[event("b"), event("a")]).await.unwrap();
    assert!(place(&before[0]) < place(&after[0]) && place(&after[0]) < place(&after[1]), "{after:?}");
    assert_eq!(place(&after[1]).0, 99_999_999_999_999);
    let recorded: Vec<String> = command(&bus, "HMGET", &[&layout, "partitions"]).await;
    assert_eq!(recorded, ["4"]);
    let other = refused(RedisEventBusConfig { partitions: 2, ..bus.config().clone() }).await;
    assert_eq!(other.recorded, 4);
}

#[tokio::test]
async fn an_id_that_is_taken_is_passed_over() {
    let bus = RedisEventBus::connect(partitioned(4)).await.unwrap();
    bus.publish(&[event("a")]).await.unwrap();
    let stream = bus.config().stream_of(&order("a"));
    let _: String = command(&bus, "XADD", &[&stream, "99999999999999-7", "none", "none"]).await;
    let ids = bus.publish(&[event("a")]).await.unwrap();
    assert_eq!(place(&ids[0]), (99_999_999_999_999, 8));
}

#[tokio::test]
async fn a_tool_attaches_to_a_bus_of_any_number_of_partitions_and_writes_no_key() {
    let missing = config();
    match RedisEventBus::attach(missing.clone()).await {
        Err(RedisConnectError::NotFound { of: "bus", key, .. }) => assert_eq!(key, missing.stream_name()),
        other => panic!("{other:?}"),
    }
    for partitions in [1, 4] {
        let bus = RedisEventBus::connect(partitioned(partitions)).await.unwrap();
        bus.publish(&[event("1"), event("2")]).await.unwrap();
        let keys_of = async || {
            let pattern = format!("*{}*", bus.config().stream_prefix);
            let mut keys: Vec<String> = command(&bus, "KEYS", &[&pattern]).await;
            keys.sort();
            keys
        };
        let groups_of = async || {
            let mut groups = bus.stream_info().await.consumer_groups;
            groups.iter_mut().for_each(|group| group.oldest_unread_age_ms = None); // it grows
            groups
        };
        let before = (keys_of().await, groups_of().await);
        let of_tool = RedisEventBusConfig {
            stream_prefix: bus.config().stream_prefix.clone(),
            consumer_group: "of-the-tool".into(),
            ..config()
        };
        let tool = RedisEventBus::attach(of_tool).await.unwrap();
        tool.ensure_connected().await.unwrap();
        assert_eq!(tool.config().partitions, partitions);
        assert_eq!(tool.stream_info().await.stream.length, 2);
        assert_eq!((keys_of().await, groups_of().await), before);
    }
}
