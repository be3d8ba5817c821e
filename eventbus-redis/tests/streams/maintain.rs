//! Trimming and health.

use std::time::Duration;

use eventbus_redis::{
    Trim, TrimBlockReason,
    streams::{Claim, Consume, RedisStreams},
};

use crate::rig::{config_on, order_stats, orders, publish_orders, streams, typed};

const NOTHING: Trim = Trim { max_length: Some(0), max_age: None };
const ALL: Consume = Consume { count: 1_000, block: Duration::ZERO };

/// Fails without the projections in the script.
#[tokio::test]
async fn what_projections_and_groups_need_stays_and_who_needs_it_is_said() {
    let streams = streams().await;
    let (key, stats) = (orders(&streams), order_stats(&streams));
    publish_orders(&streams, 500).await;
    stats.catch_up().await.unwrap();
    let mut billing = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    publish_orders(&streams, 500).await;

    let held = streams.trim(&key, NOTHING).await.unwrap();
    let by = held.held_by.unwrap();
    assert_eq!((held.removed, by.group.as_str(), by.reason), (0, "billing", TrimBlockReason::Unread));

    let given = billing.consume(Consume { count: 200, ..ALL }).await.unwrap();
    let by = streams.trim(&key, NOTHING).await.unwrap().held_by.unwrap();
    assert_eq!((by.group.as_str(), by.reason, &by.oldest), ("billing", TrimBlockReason::Pending, &given[0].id));
    billing.acknowledge(given.iter().map(|entry| &entry.id)).await.unwrap();
    assert_eq!(streams.trim(&key, NOTHING).await.unwrap().removed, 200);

    let rest = billing.consume(ALL).await.unwrap();
    billing.acknowledge(rest.iter().map(|entry| &entry.id)).await.unwrap();
    let trimmed = streams.trim(&key, Trim { max_length: Some(10), max_age: None }).await.unwrap();
    let by = trimmed.held_by.unwrap();
    let name = format!("{0}:{0}", streams.config().stream_prefix);
    assert_eq!((trimmed.removed, by.group, by.reason), (300, name, TrimBlockReason::Projection));
    assert_eq!(stats.catch_up().await.unwrap().processed, 500, "nothing was lost to it");
    let trimmed = streams.trim(&key, Trim { max_length: Some(10), max_age: None }).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by), (490, None));
}

#[tokio::test]
async fn a_projection_holds_what_it_needs_from_its_first_run_until_it_is_retired() {
    let streams = streams().await;
    let (key, stats) = (orders(&streams), order_stats(&streams));
    stats.catch_up().await.unwrap(); // of no entries
    publish_orders(&streams, 20).await;
    let by = streams.trim(&key, NOTHING).await.unwrap().held_by.unwrap();
    assert_eq!(by.reason, TrimBlockReason::Projection);
    stats.retire().await.unwrap();
    assert_eq!(streams.trim(&key, NOTHING).await.unwrap().removed, 20);
}

#[tokio::test]
async fn a_group_holds_what_it_needs_until_it_is_retired() {
    let streams = streams().await;
    let key = orders(&streams);
    assert!(!streams.retire_group(&key, "billing").await.unwrap(), "there is no stream");
    let mut billing = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    streams.consumer(&key, "audit", "audit-1").await.unwrap();
    publish_orders(&streams, 20).await;
    billing.consume(Consume { count: 5, ..ALL }).await.unwrap();
    assert!(streams.retire_group(&key, "audit").await.unwrap());
    let by = streams.trim(&key, NOTHING).await.unwrap().held_by.unwrap();
    assert_eq!((by.group.as_str(), by.reason), ("billing", TrimBlockReason::Pending), "it is not the retired one");

    assert!(streams.retire_group(&key, "billing").await.unwrap());
    assert!(!streams.retire_group(&key, "billing").await.unwrap(), "it is gone");
    assert!(streams.health(&key).await.unwrap().consumer_groups.is_empty());
    let trimmed = streams.trim(&key, NOTHING).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by), (20, None));
}

#[tokio::test]
async fn told_to_it_removes_what_is_needed() {
    let streams = streams().await;
    let key = orders(&streams);
    streams.consumer(&key, "billing", "billing-1").await.unwrap();
    publish_orders(&streams, 500).await;
    let limits = Trim { max_length: Some(100), max_age: None };
    assert_eq!(streams.trim(&key, limits).await.unwrap().removed, 0);
    let trimmed = streams.trim_may_lose(&key, limits).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by), (400, None));
}

#[tokio::test]
async fn what_is_older_than_allowed_goes() {
    let streams = streams().await;
    let key = orders(&streams);
    let now: (u64, u64) = typed(&streams, "TIME").await;
    let hours_ago = |hours: u64| (now.0 - hours * 3_600) * 1_000;
    for hours in [30, 25, 23, 1] {
        let _: String = typed(&streams, &format!("XADD {key} {}-0 type order.created", hours_ago(hours))).await;
    }
    let day = Trim { max_length: None, max_age: Some(Duration::from_secs(24 * 3_600)) };
    assert_eq!(streams.trim(&key, day).await.unwrap().removed, 2);
    assert_eq!(streams.health(&key).await.unwrap().first_entry.unwrap().id.as_str(), format!("{}-0", hours_ago(23)));
}

#[tokio::test]
async fn health_tells_what_is_pending_and_how_far_groups_are_behind() {
    let streams = streams().await;
    let key = orders(&streams);
    let empty = streams.health(&key).await.unwrap();
    assert_eq!((empty.length, empty.first_entry, empty.consumer_groups.len()), (0, None, 0));
    publish_orders(&streams, 30).await;
    let stats = order_stats(&streams);
    stats.catch_up().await.unwrap();
    let mut billing = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    streams.consumer(&key, "audit", "audit-1").await.unwrap();
    let given = billing.consume(Consume::default()).await.unwrap();
    billing.acknowledge([&given[0].id]).await.unwrap();
    let health = streams.health(&key).await.unwrap();
    let all = streams.reader(&key).page(100).await.unwrap();
    assert_eq!((health.length, health.first_entry.as_ref(), health.last_entry.as_ref()), (30, all.first(), all.last()));
    let [audit, billing] = &health.consumer_groups[..] else { panic!("{health:?}") };
    assert_eq!((audit.name.as_str(), audit.consumers, audit.pending, audit.lag), ("audit", 0, 0, Some(30)));
    assert_eq!((billing.name.as_str(), billing.consumers, billing.pending, billing.lag), ("billing", 1, 9, Some(20)));
    assert_eq!((audit.last_delivered_id.as_str(), &billing.last_delivered_id), ("0-0", &given[9].id));
    assert_eq!(health.projections[&format!("{0}:{0}", streams.config().stream_prefix)], all[29].id);
}

/// Fails if the commands of the read are sent once only.
#[tokio::test]
async fn the_state_of_the_stream_is_read_over_a_new_connection() {
    let server = eventbus_test::private_redis();
    let streams = RedisStreams::connect(config_on(server.url())).await.unwrap();
    publish_orders(&streams, 3).await;
    let cut: u64 = typed(&streams, "CLIENT KILL TYPE normal SKIPME yes").await;
    assert!(cut > 0, "the kept connection was open");
    assert_eq!(streams.health(&orders(&streams)).await.unwrap().length, 3);
}

/// Fails with the lag that the server reports.
#[tokio::test]
async fn lag_counts_nothing_that_was_trimmed_away_and_says_when_it_cannot_be_known() {
    let streams = streams().await;
    let key = orders(&streams);
    publish_orders(&streams, 30).await;
    let mut billing = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    billing.consume(Consume::default()).await.unwrap();
    let lag = async || streams.health(&key).await.unwrap().consumer_groups[0].lag;
    streams.trim_may_lose(&key, Trim { max_length: Some(5), max_age: None }).await.unwrap();
    assert_eq!(lag().await, Some(5), "15 unread ones are gone");
    billing.consume(ALL).await.unwrap();
    assert_eq!(lag().await, Some(0), "the other five are read");
    publish_orders(&streams, 5).await;
    billing.consume(Consume { count: 3, ..ALL }).await.unwrap();
    let last = streams.reader(&key).last(2).await.unwrap();
    let _: u64 = typed(&streams, &format!("XDEL {key} {}", last[0].id)).await;
    assert_eq!(lag().await, None, "an unread one was deleted in the middle");
}

#[tokio::test]
async fn everything_can_be_done_in_a_task_of_its_own() {
    let streams = streams().await;
    publish_orders(&streams, 1).await;
    let done = tokio::spawn(async move {
        let (key, stats) = (orders(&streams), order_stats(&streams));
        let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
        let entries = consumer.consume(ALL).await.unwrap();
        consumer.claim_pending(Claim::default()).await.unwrap();
        consumer.acknowledge(entries.iter().map(|entry| &entry.id)).await.unwrap();
        streams.reader(&key).wait(ALL).await.unwrap();
        stats.rebuild(|_| {}).await.unwrap();
        stats.run(async {}).await.unwrap();
        streams.trim_may_lose(&key, NOTHING).await.unwrap();
        streams.health(&key).await.unwrap().length + streams.trim(&key, NOTHING).await.unwrap().removed
    });
    assert_eq!(done.await.unwrap(), 0);
}
