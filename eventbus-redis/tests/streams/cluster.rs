//! Streams on a node of a Redis Cluster.

use eventbus_redis::{
    RedisConnectError,
    streams::{RedisStreams, RedisStreamsConfig, StreamProjectionError},
};

use crate::rig::{OrderCreated, config_on, connection, publish_orders, typed, until};

/// Fails without the comparison of slots: the error would be the server's.
#[tokio::test]
async fn on_a_cluster_what_is_written_together_must_share_a_hash_tag() {
    let server = eventbus_test::internal::private_redis_cluster();
    let error = RedisStreams::connect(config_on(server.url())).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::NeedsHashTag { field: "stream_prefix", .. }), "{error:?}");
    let config = RedisStreamsConfig { stream_prefix: "{shop}".into(), ..config_on(server.url()) };
    let streams = RedisStreams::connect(config).await.unwrap();
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    slots.query_async::<()>(&mut connection(&streams).await).await.unwrap();
    until("the cluster is up", async || streams.health("{shop}:orders").await.is_ok()).await;
    publish_orders(&streams, 3).await;

    let counting = |stream: &str, key: &'static str| {
        let projection = streams.projection("order-stats", stream);
        projection.on("order.created", move |_: OrderCreated, effects| effects.hincrby(key, "total_count", 1))
    };
    for (stream, key) in [("orders", "{shop}:stats:orders"), ("{shop}:orders", "stats:orders")] {
        for error in [counting(stream, key).catch_up().await, counting(stream, key).rebuild(|_| {}).await] {
            let Err(StreamProjectionError::OtherSlot { key: named, .. }) = &error else { panic!("{error:?}") };
            assert!(named.contains(if stream == "orders" { stream } else { key }), "{named}");
        }
    }
    let right = counting("{shop}:orders", "{shop}:stats:orders");
    assert_eq!(right.catch_up().await.unwrap().processed, 3);
    assert_eq!(right.rebuild(|_| {}).await.unwrap().processed, 3);
    assert_eq!(typed::<u64>(&streams, "HGET {shop}:stats:orders total_count").await, 3);
    let mut consumer = streams.consumer("{shop}:orders", "billing", "billing-1").await.unwrap();
    assert_eq!(consumer.consume(Default::default()).await.unwrap().len(), 3);
}
