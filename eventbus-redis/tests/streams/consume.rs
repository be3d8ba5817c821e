//! Consuming in a group.

use std::{pin::pin, time::Duration};

use eventbus_redis::streams::{Claim, Consume, EntryError, EventConsumer, RedisStreams, StreamEntry};

use crate::rig::{config_on, orders, publish_orders, streams, typed, until, waits};

const NOW: Claim = Claim { min_idle: Duration::ZERO, count: 10 };
const SOON: Consume = Consume { count: 10, block: Duration::from_millis(1) };

fn ids(entries: &[StreamEntry]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.to_string()).collect()
}

/// Reads all entries that a consumer gets.
async fn drain(consumer: &mut EventConsumer) -> Vec<StreamEntry> {
    let mut all = Vec::new();
    loop {
        let some = consumer.consume(SOON).await.unwrap();
        if some.is_empty() {
            return all;
        }
        consumer.acknowledge(some.iter().map(|entry| &entry.id)).await.unwrap();
        all.extend(some);
    }
}

#[tokio::test]
async fn the_consumers_of_a_group_share_the_entries_from_the_oldest_on() {
    let streams = streams().await;
    publish_orders(&streams, 25).await;
    let key = orders(&streams);
    let mut one = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    let mut two = streams.consumer(&key, "billing", "billing-2").await.unwrap(); // the group exists already
    let (first, second) = (one.consume(Consume::default()).await.unwrap(), two.consume(SOON).await.unwrap());
    assert_eq!((first.len(), second.len()), (10, 10));
    let rest = drain(&mut one).await;
    let all = streams.reader(&key).page(100).await.unwrap();
    assert_eq!(ids(&[first.clone(), second, rest].concat()), ids(&all));
    assert_eq!(one.acknowledge(first.iter().map(|entry| &entry.id)).await.unwrap(), 10);
    assert_eq!(one.acknowledge(first.iter().map(|entry| &entry.id)).await.unwrap(), 0);
    assert_eq!(one.acknowledge([]).await.unwrap(), 0);
}

/// Fails if the group is not made anew, or begins at the end.
#[tokio::test]
async fn a_group_that_was_lost_is_made_anew_with_the_oldest_entry() {
    let streams = streams().await;
    let key = orders(&streams);
    let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    publish_orders(&streams, 3).await;
    assert_eq!(drain(&mut consumer).await.len(), 3);
    {
        let mut waiting = pin!(consumer.consume(Consume { block: Duration::from_secs(60), ..Consume::default() }));
        assert!(waits(waiting.as_mut()));
        // the data that a flush removes
        let _: u64 = typed(&streams, &format!("DEL {key} {{{key}}}:floors")).await;
        publish_orders(&streams, 2).await;
        assert_eq!(waiting.await.unwrap().len(), 2);
    }
    let _: u64 = typed(&streams, &format!("DEL {key} {{{key}}}:floors")).await;
    assert!(consumer.claim_pending(NOW).await.unwrap().entries.is_empty());
    publish_orders(&streams, 1).await;
    assert_eq!(drain(&mut consumer).await.len(), 1);
}

/// Fails if the end of the wait is computed as an instant that does not exist: it would panic.
#[tokio::test]
async fn waiting_may_be_without_an_end() {
    let streams = streams().await;
    let key = orders(&streams);
    let for_ever = Consume { block: Duration::MAX, ..Consume::default() };
    let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    let mut reader = streams.reader(&key);
    let (taken, read, ()) =
        tokio::join!(consumer.consume(for_ever), reader.wait(for_ever), async { publish_orders(&streams, 1).await });
    assert_eq!((taken.unwrap().len(), read.unwrap().len()), (1, 1));
}

/// Fails if the future reads on a connection of its own each time.
#[tokio::test]
async fn a_wait_that_is_given_up_loses_no_entry() {
    let server = eventbus_test::private_redis();
    let streams = RedisStreams::connect(config_on(server.url())).await.unwrap();
    let key = orders(&streams);
    let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    for _ in 0..20 {
        {
            let mut waiting = pin!(consumer.consume(Consume { block: Duration::from_secs(60), ..Consume::default() }));
            let blocked = async || typed::<String>(&streams, "CLIENT LIST").await.contains("flags=b");
            until("it waits", async || waits(waiting.as_mut()) && blocked().await).await;
        }
        publish_orders(&streams, 1).await;
        assert_eq!(consumer.consume(Consume::default()).await.unwrap().len(), 1);
    }
}

/// Fails if the claim scans only the first page of pending entries, as in the tutorial.
#[tokio::test]
async fn claiming_looks_at_all_that_is_pending_however_much_is_not_idle_before_it() {
    let streams = streams().await;
    let key = orders(&streams);
    publish_orders(&streams, 300).await;
    let mut dead = streams.consumer(&key, "billing", "dead").await.unwrap();
    let held = dead.consume(Consume { count: 300, ..Consume::default() }).await.unwrap();
    let hour = Claim { min_idle: Duration::from_secs(3_600), count: 10 };
    let mut heir = streams.consumer(&key, "billing", "heir").await.unwrap();
    assert!(heir.claim_pending(hour).await.unwrap().entries.is_empty());
    // the last two have been pending on the dead consumer for two hours
    for entry in &held[298..] {
        let _: redis::Value = typed(&streams, &format!("XCLAIM {key} billing dead 0 {} IDLE 7200000", entry.id)).await;
    }
    let claimed = heir.claim_pending(hour).await.unwrap();
    let entries = claimed.entries;
    assert_eq!(ids(&entries), ids(&held[298..]));
    assert!(entries[0].data::<serde_json::Value>().is_ok());
    assert_eq!(heir.claim_pending(NOW).await.unwrap().entries.len(), 10);
    let all = heir.claim_pending(Claim { count: 1_000, ..NOW }).await.unwrap();
    assert_eq!(all.entries.len(), 300);
    assert!(drain(&mut heir).await.is_empty());
}

#[tokio::test]
async fn entries_that_were_deleted_while_pending_are_told() {
    let streams = streams().await;
    let key = orders(&streams);
    publish_orders(&streams, 5).await;
    let mut dead = streams.consumer(&key, "billing", "dead").await.unwrap();
    let held = dead.consume(SOON).await.unwrap();
    let _: u64 = typed(&streams, &format!("XDEL {key} {} {}", held[1].id, held[3].id)).await;
    let heir = streams.consumer(&key, "billing", "heir").await.unwrap();
    let claimed = heir.claim_pending(NOW).await.unwrap();
    assert_eq!(claimed.deleted, [held[1].id.clone(), held[3].id.clone()]);
    assert_eq!(claimed.entries.len(), 3);
    assert!(heir.claim_pending(NOW).await.unwrap().deleted.is_empty(), "they are pending no more");
}

#[tokio::test]
async fn foreign_and_damaged_entries_come_like_all_others_and_say_what_is_wrong() {
    let streams = streams().await;
    let key = orders(&streams);
    streams.add(&key, &[("type", "created"), ("order_id", "123")]).await.unwrap();
    streams.add(&key, &[("type", &b"\xff\xfe"[..]), ("data", b"{"), ("\u{0}", b"")]).await.unwrap();
    publish_orders(&streams, 1).await;
    let mut consumer = streams.consumer(&key, "billing", "billing-1").await.unwrap();
    let entries = drain(&mut consumer).await;
    let [flat, damaged, sound] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((flat.event_type().unwrap(), flat.field("order_id")), ("created", Some(&b"123"[..])));
    let error = flat.data::<serde_json::Value>().unwrap_err();
    assert!(matches!(&error, EntryError::Missing { entry, field: "data" } if *entry == flat.id), "{error:?}");
    let error = damaged.data::<serde_json::Value>().unwrap_err();
    assert!(matches!(&error, EntryError::Invalid { entry, field: "data", .. } if *entry == damaged.id), "{error:?}");
    assert!(matches!(damaged.event_type(), Err(EntryError::Invalid { field: "type", .. })));
    assert!(matches!(damaged.timestamp_ms(), Err(EntryError::Missing { field: "timestamp", .. })));
    assert_eq!(sound.data::<serde_json::Value>().unwrap()["total"], 1.5);
}
