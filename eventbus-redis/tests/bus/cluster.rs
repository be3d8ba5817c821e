//! The bus on the nodes of a Redis Cluster.

use crate::common::{config_on, seen::event, until};
use eventbus::port::EventBus;
use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};

#[tokio::test]
async fn on_a_cluster_a_prefix_without_a_hash_tag_is_refused_and_told_what_to_be() {
    let server = eventbus_test::internal::private_redis_cluster();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let with = |prefix: &str| RedisEventBusConfig { stream_prefix: prefix.into(), ..config_on(server.url()) };
    let error = RedisEventBus::connect(with("orders")).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::NeedsHashTag { .. }), "{error:?}");
    assert!(!error.is_retryable());
    assert!(error.to_string().ends_with("set `stream_prefix` to `{orders}` instead of `orders`"), "{error}");

    let error = RedisEventBus::connect(with("{orders}")).await.unwrap_err();
    assert!(error.is_retryable(), "the slot is nobody's yet: {error:?}");

    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTSRANGE").arg(0).arg(16_383);
    slots.query_async::<()>(&mut connection).await.unwrap();
    until("the cluster is up", async || RedisEventBus::connect(with("{orders}")).await.is_ok()).await;
    let bus = RedisEventBus::connect(with("{orders}")).await.unwrap();
    bus.publish(&[event("1")]).await.unwrap();
    assert_eq!(bus.stream_info().await.stream.length, 1);
    assert_eq!(bus.config().stream_name(), "{orders}:stream");
}

#[tokio::test]
async fn a_node_of_a_cluster_that_has_not_the_slot_refuses() {
    let nodes = [eventbus_test::internal::private_redis_cluster(), eventbus_test::internal::private_redis_cluster()];
    let mut connections = Vec::new();
    for node in &nodes {
        connections.push(eventbus_test::internal::redis_connection(node.url()).await);
    }
    for (connection, [first, last]) in connections.iter_mut().zip([[0, 8_191], [8_192, 16_383]]) {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("ADDSLOTSRANGE").arg(first).arg(last);
        slots.query_async::<()>(connection).await.unwrap();
    }
    eventbus_test::internal::join_clusters(&nodes[0], &nodes[1]).await;

    let mut keyslot = redis::cmd("CLUSTER");
    let slot: u16 = keyslot.arg("KEYSLOT").arg("{orders}").query_async(&mut connections[0]).await.unwrap();
    let (has_it, has_not) = if slot < 8_192 { (&nodes[0], &nodes[1]) } else { (&nodes[1], &nodes[0]) };
    let on = |url: &str| RedisEventBusConfig { stream_prefix: "{orders}".into(), ..config_on(url) };
    until("the nodes know each other", async || RedisEventBus::connect(on(has_it.url())).await.is_ok()).await;
    until("both say where the slot is", async || {
        let refused = RedisEventBus::connect(on(has_not.url())).await.unwrap_err();
        matches!(&refused, RedisConnectError::Refused { source, .. } if source.to_string().contains("Moved"))
    })
    .await;
}
