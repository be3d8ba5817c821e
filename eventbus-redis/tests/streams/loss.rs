//! Entries removed before a projection has processed them: it reports them and stops.

use std::collections::BTreeSet;

use eventbus::port::MessageId;
use eventbus_redis::{
    Trim,
    streams::{EventProjection, RedisStreams, StreamProjectionError},
};
use serde_json::json;

use crate::rig::{all_entries, counted, crash_after, order_stats, orders, publish_orders, streams, typed};

const TO_FIVE: Trim = Trim { max_length: Some(5), max_age: None };

/// The missing entries: the entry before them, and their number.
async fn missing(stats: &EventProjection) -> (String, Option<u64>) {
    match stats.catch_up().await {
        Err(StreamProjectionError::Missing { after, entries, .. }) => (after.to_string(), entries),
        other => panic!("{other:?}"),
    }
}

async fn xtrim(streams: &RedisStreams, length: u64) {
    let _: u64 = typed(streams, &format!("XTRIM {} MAXLEN {length}", orders(streams))).await;
}

/// An order under an id that the test chooses.
async fn add_at(streams: &RedisStreams, id: &str, total: f64) {
    let mut add = redis::cmd("XADD");
    add.arg(orders(streams)).arg(id).arg("type").arg("order.created").arg("data");
    add.arg(json!({ "total": total }).to_string());
    add.exec_async(&mut crate::rig::connection(streams).await).await.unwrap();
}

/// Fails without the count beside the checkpoint.
#[tokio::test]
async fn what_is_trimmed_past_the_checkpoint_stops_it_until_somebody_decides() {
    let streams = streams().await;
    let stats = order_stats(&streams);
    publish_orders(&streams, 20).await;
    stats.catch_up().await.unwrap();
    let at = stats.checkpoint().await.unwrap().unwrap();
    // processed entries may be removed
    xtrim(&streams, 5).await;
    publish_orders(&streams, 3).await;
    xtrim(&streams, 3).await;
    assert_eq!(stats.catch_up().await.unwrap().processed, 3);
    let before = stats.checkpoint().await.unwrap().unwrap();
    assert_ne!(before, at);

    publish_orders(&streams, 250).await;
    xtrim(&streams, 243).await;
    for _ in 0..2 {
        assert_eq!(missing(&stats).await, (before.to_string(), Some(7)));
        assert_eq!((counted(&streams).await, stats.checkpoint().await.unwrap().as_ref()), (23, Some(&before)));
    }
    let error = stats.run(std::future::pending()).await.unwrap_err();
    assert!(!error.is_retryable());
    let key = orders(&streams);
    assert!(error.to_string().contains(&format!("7 entries of `{key}` after {before}")), "{error}");
    stats.set_checkpoint_after(Some(&before)).await.unwrap();
    assert_eq!(stats.catch_up().await.unwrap().processed, 243);
    assert_eq!(counted(&streams).await, 266);
}

/// Publishes as the tutorial does: with `maxlen` on a stream that a projection reads.
#[tokio::test]
async fn a_publisher_with_a_maximum_length_is_noticed_also_before_the_first_step() {
    let streams = streams().await;
    let stats = order_stats(&streams);
    assert_eq!(stats.catch_up().await.unwrap().processed, 0);
    for _ in 0..400 {
        streams.publisher().publish_capped("orders", "order.created", &json!({ "total": 1 }), 100).await.unwrap();
    }
    let left = streams.health(&orders(&streams)).await.unwrap().length;
    assert!(left < 400);
    assert_eq!(missing(&stats).await, ("0-0".to_owned(), Some(400 - left)));
    // a new projection has missed no entry
    let new = streams.projection(&format!("{}-new", streams.config().stream_prefix), &orders(&streams));
    assert_eq!(new.catch_up().await.unwrap().processed, left);
    stats.set_checkpoint_after(None).await.unwrap();
    assert_eq!(stats.catch_up().await.unwrap().processed, left);
    streams.trim_may_lose(&orders(&streams), TO_FIVE).await.unwrap();
    publish_orders(&streams, 8).await;
    assert_eq!(stats.catch_up().await.unwrap().processed, 8, "only what was processed is gone");
}

/// Fails without the comparison of counts, or of the newest id.
#[tokio::test]
async fn a_stream_that_was_made_anew_is_noticed_whatever_its_ids_are() {
    // ids of the same millisecond, lower ids, higher ids; fewer entries, as many, more
    let anew: [&[&str]; 7] =
        [&[], &["5-0"], &["4-0", "4-1"], &["5-1", "5-2"], &["6-0"], &["6-0", "6-1"], &["6-0", "6-1", "6-2"]];
    for ids in anew {
        let streams = streams().await;
        let stats = order_stats(&streams);
        for id in ["5-0", "5-1"] {
            add_at(&streams, id, 1.0).await;
        }
        assert_eq!(stats.catch_up().await.unwrap().processed, 2);
        let _: u64 = typed(&streams, &format!("DEL {}", orders(&streams))).await;
        for id in ids {
            add_at(&streams, id, 2.0).await;
        }
        for _ in 0..2 {
            assert_eq!(missing(&stats).await, ("5-1".to_owned(), None), "{ids:?}");
        }
        assert_eq!(counted(&streams).await, 2);
        stats.set_checkpoint_after(None).await.unwrap();
        assert_eq!(stats.catch_up().await.unwrap().processed, ids.len() as u64);
        assert_eq!(counted(&streams).await, 2 + ids.len() as u64, "the old numbers, and what is new");
        assert_eq!(stats.rebuild(|_| {}).await.unwrap().processed, ids.len() as u64);
        assert_eq!(counted(&streams).await, ids.len() as u64);
    }
}

#[tokio::test]
async fn the_same_entries_in_a_stream_of_their_own_are_the_same_events() {
    let streams = streams().await;
    let (stats, key) = (order_stats(&streams), orders(&streams));
    publish_orders(&streams, 3).await;
    stats.catch_up().await.unwrap();
    let _: u64 = typed(&streams, &format!("COPY {key} {key}:copy")).await;
    let _: String = typed(&streams, &format!("RENAME {key}:copy {key}")).await;
    publish_orders(&streams, 1).await;
    assert_eq!(stats.catch_up().await.unwrap().processed, 1);
}

/// Fails if a checkpoint without a record counts as sound.
#[tokio::test]
async fn one_that_was_retired_says_that_it_cannot_know() {
    let streams = streams().await;
    let stats = order_stats(&streams);
    publish_orders(&streams, 10).await;
    stats.catch_up().await.unwrap();
    let at = stats.checkpoint().await.unwrap().unwrap();
    stats.retire().await.unwrap();
    assert_eq!(stats.catch_up().await.unwrap().processed, 0, "its entry is there");
    stats.retire().await.unwrap();
    publish_orders(&streams, 10).await;
    xtrim(&streams, 5).await;
    assert_eq!(missing(&stats).await, (at.to_string(), None));
    stats.set_checkpoint_after(Some(&at)).await.unwrap();
    assert_eq!(stats.catch_up().await.unwrap().processed, 5);
}

#[tokio::test]
async fn a_checkpoint_can_be_set_by_hand_and_is_refused_where_it_is_no_id() {
    let streams = streams().await;
    let (stats, key) = (order_stats(&streams), orders(&streams));
    publish_orders(&streams, 130).await;
    stats.catch_up().await.unwrap();
    let all = streams.reader(&key).page(1_000).await.unwrap();
    for (after, processed) in [(None, 130), (Some(&all[0].id), 129), (Some(&all[126].id), 3), (Some(&all[129].id), 0)] {
        stats.set_checkpoint_after(after).await.unwrap();
        assert_eq!(stats.checkpoint().await.unwrap().as_ref(), after);
        assert_eq!(stats.catch_up().await.unwrap().processed, processed);
    }
    for text in ["", "$", "+", "order"] {
        let refused = stats.set_checkpoint_after(Some(&MessageId::new(text))).await.unwrap_err();
        assert!(refused.to_string().contains(&key), "{refused}");
    }
    let before_all = MessageId::new("17");
    stats.set_checkpoint_after(Some(&before_all)).await.unwrap();
    assert_eq!(stats.catch_up().await.unwrap().processed, 130);
}

/// Publishes and trims at random, stops the projection anywhere, and records the unprocessed entries.
struct Model {
    streams: RedisStreams,
    stats: EventProjection,
    unprocessed: BTreeSet<(u64, u64)>,
    counted: u64,
}

impl Model {
    async fn entries(&self) -> BTreeSet<(u64, u64)> {
        let all = all_entries(&self.streams).await;
        let number = |text: &str| text.parse().unwrap();
        let id = |id: &MessageId| id.as_str().split_once('-').map(|(ms, n)| (number(ms), number(n))).unwrap();
        all.iter().map(|entry| id(&entry.id)).collect()
    }

    async fn disturb(&mut self) {
        match fastrand::u8(0..10) {
            0..6 => {
                let before = self.entries().await;
                publish_orders(&self.streams, fastrand::usize(1..140)).await;
                self.unprocessed.extend(self.entries().await.difference(&before));
            }
            6..9 => xtrim(&self.streams, fastrand::u64(0..300)).await,
            _ => drop(self.streams.trim(&orders(&self.streams), TO_FIVE).await.unwrap()),
        }
    }

    async fn check(&mut self) {
        if fastrand::bool() {
            let fresh = RedisStreams::connect(self.streams.config().clone()).await.unwrap();
            crash_after(fastrand::usize(1..8), order_stats(&fresh).catch_up()).await;
            let processed = counted(&self.streams).await - self.counted;
            self.took(processed).await;
        }
        let left = self.entries().await;
        let gone = self.unprocessed.difference(&left).count() as u64;
        match self.stats.catch_up().await {
            Ok(applied) => {
                assert_eq!(gone, 0);
                self.took(applied.processed).await;
                self.unprocessed.clear();
            }
            Err(StreamProjectionError::Missing { after, entries, .. }) => {
                assert_eq!(entries, Some(gone));
                self.unprocessed.retain(|id| left.contains(id));
                self.stats.set_checkpoint_after(Some(&after)).await.unwrap();
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Records that the projection has processed this number of the remaining entries.
    async fn took(&mut self, processed: u64) {
        self.counted += processed;
        assert_eq!(counted(&self.streams).await, self.counted);
        let left = self.entries().await;
        let done: Vec<_> = self.unprocessed.intersection(&left).copied().take(processed as usize).collect();
        if let Some(last) = done.last() {
            // the missing entries are still to be reported
            self.unprocessed.retain(|id| id > last || !left.contains(id));
        }
    }
}

#[tokio::test]
async fn whatever_is_done_to_the_stream_it_misses_nothing_in_silence() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    fastrand::seed(seed);
    let streams = streams().await;
    let stats = order_stats(&streams);
    stats.catch_up().await.unwrap();
    let mut model = Model { streams, stats, unprocessed: BTreeSet::new(), counted: 0 };
    for _ in 0..30 {
        for _ in 0..fastrand::usize(1..4) {
            model.disturb().await;
        }
        model.check().await;
    }
}
