//! Event sourcing on Redis Streams alone, as its users run it.

mod common;

use common::{printed, run};
use eventbus_redis::streams::{Consume, EntryError, RedisStreams, RedisStreamsConfig, StreamEntry};
use redis::streams::StreamReadReply;

fn play(url: &str) -> Vec<String> {
    printed(&run(env!("CARGO_BIN_EXE_redis-streams"), &["--redis", url])).lines().map(str::to_owned).collect()
}

/// The number of orders, their sum in cents, and the number of shipped ones. The server's sums have an error, far
/// below a cent.
fn stats(url: &str) -> (u64, i64, u64) {
    let mut server = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut ask = redis::cmd("HMGET");
    ask.arg("stats:orders").arg("total_count").arg("total_value").arg("shipped_count");
    let (orders, value, shipped): (u64, f64, u64) = ask.query(&mut server).unwrap();
    (orders, (value * 100.0).round() as i64, shipped)
}

#[test]
fn events_are_billed_counted_and_kept_and_a_second_run_counts_nothing_twice() {
    let server = eventbus_test::private_redis();
    let said = play(server.url());
    let expected = [
        "published 2 events, and a batch of 2",
        "the last of at most 10: order.shipped",
        "after the first of them there are 3",
        "billing-1 dies with 4 events",
        "  billed order.created",
        "  billed order.paid",
        "  billed order.created",
        "  billed order.shipped",
        "billing-2 has taken over 4 events",
        "order-stats has processed 4 events, 1 of them unknown",
        "  rebuilt 4 of 4",
        "rebuilt from 4 events",
        "trimmed: 0 removed",
        "Stream length: 4",
        "Group billing-service: 0 pending messages",
        "Projection events:order-stats: up to date",
    ];
    assert_eq!(said, expected);
    assert_eq!(stats(server.url()), (2, 14_998, 1));

    let said = play(server.url());
    assert!(said.contains(&"order-stats has processed 4 events, 1 of them unknown".to_owned()), "{said:#?}");
    assert!(said.contains(&"rebuilt from 8 events".to_owned()), "{said:#?}");
    assert_eq!(stats(server.url()), (4, 29_996, 2));
}

/// The fields that the tutorial's basic sample writes, in its order.
const USER: [(&str, &str); 3] =
    [("user_id", "123"), ("email", "user@example.com"), ("timestamp", "2024-01-15T10:00:00")];

fn fields(entry: &StreamEntry) -> Vec<(&str, &str)> {
    entry.fields().iter().map(|(name, value)| (name.as_str(), str::from_utf8(value).unwrap())).collect()
}

#[tokio::test]
async fn entries_of_flat_fields_are_written_and_read_as_by_hand() {
    let server = eventbus_test::private_redis();
    let (key, config) = ("events:user_created", RedisStreamsConfig::default());
    let streams = RedisStreams::connect(RedisStreamsConfig { redis_url: server.url().into(), ..config }).await.unwrap();
    let mut by_hand = redis::Client::open(server.url()).unwrap().get_connection().unwrap();

    // redis.xadd("events:user_created", {..}), from here and from there
    let ours = streams.add(key, &USER).await.unwrap();
    let theirs: String = redis::cmd("XADD").arg(key).arg("*").arg(&USER).query(&mut by_hand).unwrap();
    // redis.xread({"events:user_created": "0"}, count=10), there and here
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(10).arg("STREAMS").arg(key).arg("0");
    let seen: StreamReadReply = read.query(&mut by_hand).unwrap();
    let seen: Vec<_> = seen.keys[0].ids.iter().map(|entry| (entry.id.as_str(), entry.map.len())).collect();
    assert_eq!(seen, [(ours.as_str(), 3), (&theirs, 3)]);
    let entries = streams.reader(key).page(10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), [ours.as_str(), &theirs]);
    assert!(entries.iter().all(|entry| fields(entry) == USER), "{entries:#?}");

    // a group from id 0: decoding this entry as an event fails, and it stays pending until it is acknowledged
    let mut worker = streams.consumer(key, "email_workers", "worker-0").await.unwrap();
    let given = worker.consume(Consume { count: 10, ..Consume::default() }).await.unwrap();
    assert_eq!(given, entries);
    assert!(matches!(given[0].event_type(), Err(EntryError::Missing { field: "type", .. })));
    assert_eq!(streams.health(key).await.unwrap().consumer_groups[0].pending, 2);
    assert_eq!(worker.acknowledge(given.iter().map(|entry| &entry.id)).await.unwrap(), 2);
    assert_eq!(streams.health(key).await.unwrap().consumer_groups[0].pending, 0);
}
