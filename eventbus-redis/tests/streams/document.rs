//! The samples of tutorials on event sourcing with Redis Streams, with the same keys, fields and values.

use std::time::Duration;

use eventbus::port::MessageId;
use eventbus_redis::{
    Trim,
    streams::{Claim, Consume, RedisStreams, RedisStreamsConfig},
};
use eventbus_test::PrivateRedis;
use serde_json::{Value, json};

use crate::rig::{OrderCreated, OrderShipped, typed};

/// The keys are those of the tutorial, so the test has a server of its own.
async fn fresh() -> (PrivateRedis, RedisStreams) {
    let server = eventbus_test::private_redis();
    let config = RedisStreamsConfig { redis_url: server.url().into(), ..RedisStreamsConfig::default() };
    let streams = RedisStreams::connect(config).await.unwrap();
    (server, streams)
}

#[tokio::test]
async fn adding_events() {
    let (_server, streams) = fresh().await;
    let created = [("type", "created"), ("order_id", "123"), ("total", "99.99")];
    let id = streams.add("orders:events", &created).await.unwrap();
    let (time, sequence) = id.as_str().split_once('-').unwrap();
    assert!(time.len() == 13 && sequence == "0", "`1706185200000-0` (timestamp-sequence): {id}");
    streams.add_capped("orders:events", &created[..2], 10_000).await.unwrap();
    let all: Vec<(String, Vec<String>)> = typed(&streams, "XRANGE orders:events - +").await;
    assert_eq!(
        all[0],
        (id.to_string(), ["type", "created", "order_id", "123", "total", "99.99"].map(Into::into).into())
    );
    assert_eq!(all[1].1, ["type", "created", "order_id", "123"]);
}

#[tokio::test]
async fn reading_events() {
    let (_server, streams) = fresh().await;
    let _: String = typed(&streams, "XADD orders:events 1706185200000-0 type created order_id 123").await;
    for n in 1..=12 {
        streams.add("orders:events", &[("type", "created"), ("order_id", &n.to_string())]).await.unwrap();
    }
    let reader = || streams.reader("orders:events");
    assert_eq!(reader().page(usize::MAX).await.unwrap().len(), 13);
    assert_eq!(reader().last(10).await.unwrap().len(), 10);
    let after = MessageId::new("1706185200000-0");
    assert_eq!(reader().after(&after).page(usize::MAX).await.unwrap().len(), 12, "after it, so without it");
    let mut new = reader();
    new.skip_to_end().await.unwrap();
    let (coming, added) = tokio::join!(
        new.wait(Consume { block: Duration::from_millis(5_000), ..Consume::default() }),
        streams.add("orders:events", &[("type", "created")]),
    );
    assert_eq!(coming.unwrap()[0].id, added.unwrap());
}

/// Publishes the events of the tutorial.
async fn publish(streams: &RedisStreams) -> [MessageId; 2] {
    let publisher = streams.publisher();
    let created = json!({
        "order_id": "12345",
        "customer_id": "cust_001",
        "items": [{ "sku": "WIDGET-01", "qty": 2 }],
        "total": 49.99
    });
    let paid = json!({ "order_id": "12345", "payment_id": "pay_abc123", "amount": 49.99 });
    [
        publisher.publish("orders", "order.created", &created).await.unwrap(),
        publisher.publish("orders", "order.paid", &paid).await.unwrap(),
    ]
}

#[tokio::test]
async fn publisher_and_consumer() {
    let (_server, streams) = fresh().await;
    let ids = publish(&streams).await;
    let capped = streams.publisher();
    capped.publish_capped("orders", "order.shipped", &json!({}), 10_000).await.unwrap();
    let batch = [("order.created", json!({ "total": 1 })), ("order.paid", json!({ "amount": 1 }))];
    assert_eq!(capped.publish_batch("orders", batch).await.unwrap().len(), 2);

    let mut consumer = streams.consumer("events:orders", "billing-service", "billing-1").await.unwrap();
    let events = consumer.consume(Consume { count: 10, block: Duration::from_millis(5_000) }).await.unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!((&events[0].id, &events[1].id), (&ids[0], &ids[1]));
    assert_eq!(events[0].event_type().unwrap(), "order.created");
    assert!(events[0].timestamp_ms().unwrap() > 1_706_185_200_000);
    let created: Value = events[0].data().unwrap();
    assert_eq!((&created["items"][0]["sku"], &created["total"]), (&json!("WIDGET-01"), &json!(49.99)));
    consumer.acknowledge([&events[0].id]).await.unwrap();

    let again = streams.consumer("events:orders", "billing-service", "billing-2").await.unwrap();
    assert!(again.claim_pending(Claim::default()).await.unwrap().entries.is_empty(), "nothing is idle for 60,000 ms");
    let claimed = again.claim_pending(Claim { min_idle: Duration::ZERO, ..Claim::default() }).await.unwrap();
    assert_eq!(claimed.entries.len(), 4);
    let paid: Value = claimed.entries[0].data().unwrap();
    assert_eq!(paid["payment_id"], json!("pay_abc123"));
}

#[tokio::test]
async fn replay_and_projection() {
    let (_server, streams) = fresh().await;
    publish(&streams).await;
    streams.publisher().publish("orders", "order.created", &json!({ "total": 99.99 })).await.unwrap();
    streams.publisher().publish("orders", "order.shipped", &json!({ "tracking": "1Z" })).await.unwrap();
    let projection = streams
        .projection("order-stats", "events:orders")
        .on("order.created", |data: OrderCreated, effects| {
            effects.hincrby("stats:orders", "total_count", 1);
            effects.hincrbyfloat("stats:orders", "total_value", data.total);
        })
        .on("order.shipped", |_: OrderShipped, effects| effects.hincrby("stats:orders", "shipped_count", 1));
    for _ in 0..2 {
        assert_eq!(projection.rebuild(|_| {}).await.unwrap().processed, 4);
        let stats: Vec<String> = typed(&streams, "HGETALL stats:orders").await;
        assert_eq!(stats, ["total_count", "2", "total_value", "149.98", "shipped_count", "1"], "not doubled");
    }
    let checkpoint: String = typed(&streams, "GET projection:events:events%3Aorders:order-stats:checkpoint").await;
    assert_eq!(checkpoint, streams.health("events:orders").await.unwrap().last_entry.unwrap().id.as_str());
}

#[tokio::test]
async fn maintenance() {
    let (_server, streams) = fresh().await;
    publish(&streams).await;
    let trimmed = streams.trim("events:orders", Trim { max_length: Some(100_000), max_age: None }).await.unwrap();
    assert_eq!(trimmed.removed, 0);
    let day = Trim { max_length: None, max_age: Some(Duration::from_secs(24 * 3_600)) };
    assert_eq!(streams.trim("events:orders", day).await.unwrap().removed, 0);

    let mut consumer = streams.consumer("events:orders", "billing-service", "billing-1").await.unwrap();
    consumer.consume(Consume::default()).await.unwrap();
    let info = streams.health("events:orders").await.unwrap();
    let mut printed = vec![format!("Stream length: {}", info.length)];
    for group in &info.consumer_groups {
        printed.push(format!("Group {}: {} pending messages", group.name, group.pending));
    }
    assert_eq!(printed, ["Stream length: 2", "Group billing-service: 2 pending messages"]);
}
