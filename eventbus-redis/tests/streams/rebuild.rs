//! Rebuilding from zero.

use std::sync::Mutex;

use eventbus_redis::streams::{RedisStreams, StreamProjectionError};
use serde_json::json;

use crate::rig::{
    counted, crash_after, created, order_stats, orders, publish_orders, stats_key, streams, typed, until,
    with_rival_after,
};

/// Fails if a rebuild adds to the numbers, as the tutorial's does.
#[tokio::test]
async fn a_rebuild_begins_from_zero_and_reports_its_progress() {
    let streams = streams().await;
    publish_orders(&streams, 1_050).await;
    let stats = order_stats(&streams);
    stats.catch_up().await.unwrap();
    publish_orders(&streams, 50).await;
    let stale = stats_key(&streams);
    let _: u64 = typed(&streams, &format!("HINCRBY {stale} total_count 7")).await; // a wrong number to correct
    let seen = Mutex::new(Vec::new());
    let progress = |now: eventbus_redis::streams::ProjectionProgress| seen.lock().unwrap().push((now.done, now.of));
    assert_eq!(stats.rebuild(progress).await.unwrap().processed, 1_100);
    assert_eq!(seen.into_inner().unwrap(), (1..=11).map(|n| (n * 100, 1_100)).collect::<Vec<_>>());
    assert_eq!(stats.rebuild(|_| {}).await.unwrap().processed, 1_100);
    assert_eq!(counted(&streams).await, 1_100);
    assert_eq!(stats.catch_up().await.unwrap().processed, 0, "the checkpoint is where the numbers are");
}

/// Fails if the step that empties the keys leaves the checkpoint, or a key that a runner has just written.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_beside_runners_and_publishers_ends_with_numbers_that_are_right() {
    let streams = streams().await;
    publish_orders(&streams, 500).await;
    let runner = order_stats(&streams);
    let running = tokio::spawn(async move { runner.run(std::future::pending()).await });
    let publishing = {
        let streams = streams.clone();
        tokio::spawn(async move {
            for _ in 0..300 {
                publish_orders(&streams, 10).await;
            }
        })
    };
    for _ in 0..5 {
        order_stats(&streams).rebuild(|_| {}).await.unwrap();
    }
    publishing.await.unwrap();
    until("all are counted", async || counted(&streams).await >= 3_500).await;
    order_stats(&streams).rebuild(|_| {}).await.unwrap();
    assert_eq!((counted(&streams).await, order_stats(&streams).catch_up().await.unwrap().processed), (3_500, 0));
    running.abort();
}

#[tokio::test]
async fn keys_that_the_rebuild_does_not_write_are_removed() {
    let streams = streams().await;
    let stats = stats_key(&streams);
    let kinds = [("order.created", json!({ "total": 1.5 })), ("order.shipped", json!({}))];
    streams.publisher().publish_batch("orders", kinds).await.unwrap();
    let (name, shipped) = (streams.config().stream_prefix.clone(), format!("{stats}:shipped"));
    let key = shipped.clone();
    let before = streams
        .projection(&name, &orders(&streams))
        .on("order.created", created(&stats))
        .on("order.shipped", move |_: serde_json::Value, effects| effects.set(&key, 1));
    before.catch_up().await.unwrap();
    let exists = async || typed::<u64>(&streams, &format!("EXISTS {shipped}")).await;
    assert_eq!(exists().await, 1);
    let rebuilt = order_stats(&streams).rebuild(|_| {}).await.unwrap();
    assert_eq!((rebuilt.processed, exists().await), (2, 0));
    let fields: Vec<String> = typed(&streams, &format!("HKEYS {stats}")).await;
    assert_eq!(fields, ["total_count", "total_value", "shipped_count"]);
}

#[tokio::test]
async fn a_rebuild_that_dies_anywhere_is_ended_by_the_next_run() {
    let streams = streams().await;
    publish_orders(&streams, 250).await;
    let stats = order_stats(&streams);
    stats.catch_up().await.unwrap();
    let mut died = 0;
    for waits in 1.. {
        let fresh = RedisStreams::connect(streams.config().clone()).await.unwrap();
        let rebuilt = crash_after(waits, order_stats(&fresh).rebuild(|_| {})).await;
        stats.catch_up().await.unwrap();
        assert_eq!(counted(&streams).await, 250, "after {waits} waits");
        if let Some(rebuilt) = rebuilt {
            assert_eq!(rebuilt.unwrap().processed, 250);
            break;
        }
        died += 1;
    }
    assert!(died >= 5, "it waits several times: {died}");
}

#[tokio::test]
async fn a_rebuild_that_fails_goes_on_behind_what_it_has_processed() {
    let streams = streams().await;
    publish_orders(&streams, 250).await;
    streams.publisher().publish("orders", "order.odd", &json!({})).await.unwrap();
    let stats = order_stats(&streams);
    stats.catch_up().await.unwrap();
    let failing = order_stats(&streams).try_on("order.odd", |_: serde_json::Value, _| Err::<(), _>("no"));
    assert!(matches!(failing.rebuild(|_| {}).await, Err(StreamProjectionError::Handler { .. })));
    assert_eq!(counted(&streams).await, 250);
    assert_eq!(stats.catch_up().await.unwrap().processed, 1);
}

/// Fails if a rebuild does not compare the checkpoint: writes of a runner stay, and are made again.
#[tokio::test]
async fn a_runner_that_goes_on_at_any_moment_of_a_rebuild_is_not_repeated() {
    for waits in 1.. {
        let streams = streams().await;
        publish_orders(&streams, 5).await;
        let (name, stem) = (streams.config().stream_prefix.clone(), stats_key(&streams));
        let each = streams.projection(&name, &orders(&streams)).on("order.created", move |order: OrderId, effects| {
            effects.hincrby(&format!("{stem}:{}", order.order_id), "times", 1);
        });
        each.catch_up().await.unwrap();
        let late = ("order.created", json!({ "order_id": "late" }));
        let (rebuilt, is_rivalled) = with_rival_after(waits, each.rebuild(|_| {}), async {
            streams.publisher().publish_batch("orders", [late]).await.unwrap();
            each.catch_up().await.unwrap();
        })
        .await;
        rebuilt.unwrap();
        if !is_rivalled {
            break;
        }
        each.catch_up().await.unwrap();
        let times: u64 = typed(&streams, &format!("HGET {}:late times", stats_key(&streams))).await;
        assert_eq!(times, 1, "after {waits} waits");
    }
}

#[derive(serde::Deserialize)]
struct OrderId {
    order_id: String,
}

#[tokio::test]
async fn a_rebuild_of_nothing_leaves_nothing() {
    let streams = streams().await;
    let rebuilt = order_stats(&streams).rebuild(|_| {}).await.unwrap();
    assert_eq!((rebuilt.processed, rebuilt.position), (0, None));
    publish_orders(&streams, 2).await;
    assert_eq!(order_stats(&streams).catch_up().await.unwrap().processed, 2);
}
