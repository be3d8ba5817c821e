//! Reading by hand.

use std::{pin::pin, time::Duration};

use eventbus::port::MessageId;
use eventbus_redis::{
    RedisCommandError,
    streams::{Consume, StreamEntry},
};

use crate::rig::{orders, streams, typed, until, waits};

fn numbers(entries: &[StreamEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.data().unwrap()).collect()
}

#[tokio::test]
async fn ranges_pages_and_the_last_ones() {
    let streams = streams().await;
    let events = (0..25_u64).map(|n| ("counted", n));
    let ids = streams.publisher().publish_batch("orders", events).await.unwrap();
    let reader = || streams.reader(&orders(&streams));
    let mut pages = reader();
    for page in [0..10, 10..20, 20..25, 25..25] {
        assert_eq!(numbers(&pages.page(10).await.unwrap()), page.collect::<Vec<_>>());
    }
    assert_eq!(numbers(&reader().last(3).await.unwrap()), [22, 23, 24]);
    assert_eq!(numbers(&reader().after(&ids[21]).page(100).await.unwrap()), [22, 23, 24], "after it, not with it");
    assert_eq!(numbers(&reader().after(&ids[4]).through(&ids[6]).page(100).await.unwrap()), [5, 6]);
    for words in ["$", "+", "-", "", "(1-0", "1-0 "] {
        let error = reader().after(&MessageId::new(words)).page(1).await.unwrap_err();
        assert!(matches!(error, RedisCommandError::Refused { .. }), "{words}: {error:?}");
    }
}

/// Fails if a page has the requested number of entries whatever their size.
#[tokio::test]
async fn pages_end_with_the_entry_that_reaches_their_bytes() {
    let streams = streams().await;
    let sizes = [10, 600_000, 600_000, 10, 3_000_000, 10, 10, 900_000, 900_000];
    for size in sizes {
        streams.publisher().publish("orders", "sized", &"x".repeat(size)).await.unwrap();
    }
    let lengths = |entries: Vec<StreamEntry>| -> Vec<usize> {
        entries.iter().map(|entry| entry.data::<String>().unwrap().len()).collect()
    };
    let reader = || streams.reader(&orders(&streams));
    let (mut pages, mut waits) = (reader(), reader());
    for page in [&sizes[..3], &sizes[3..5], &sizes[5..9], &[]] {
        assert_eq!(lengths(pages.page(usize::MAX).await.unwrap()), page);
        let how = Consume { count: usize::MAX, block: Duration::from_millis(10) };
        assert_eq!(lengths(waits.wait(how).await.unwrap()), page);
    }
    assert_eq!(lengths(reader().last(9).await.unwrap()), sizes[7..]);
}

/// An abandoned read leaves the reader where it was.
#[tokio::test]
async fn what_an_abandoned_wait_reads_is_not_read_again() {
    let streams = streams().await;
    let publisher = streams.publisher();
    let mut reader = streams.reader(&orders(&streams));
    {
        let mut waiting = pin!(reader.wait(Consume { block: Duration::from_secs(60), ..Consume::default() }));
        let soon = tokio::time::timeout(Duration::from_millis(50), waiting.as_mut()).await;
        assert!(soon.is_err(), "{soon:?}");
    }
    publisher.publish_batch("orders", (0..3_u64).map(|n| ("counted", n))).await.unwrap();
    assert_eq!(numbers(&reader.page(2).await.unwrap()), [0, 1]);
    assert_eq!(numbers(&reader.wait(Consume::default()).await.unwrap()), [2]);
}

/// Fails if each read sends `$` to the server: it would miss entries between two reads.
#[tokio::test]
async fn new_ones_only_and_none_is_missed_between_two_reads() {
    let streams = streams().await;
    let publisher = streams.publisher();
    publisher.publish("orders", "counted", &0).await.unwrap();
    let mut coming = streams.reader(&orders(&streams));
    coming.skip_to_end().await.unwrap();
    let soon = Consume { block: Duration::from_millis(1), ..Consume::default() };
    assert!(coming.wait(soon).await.unwrap().is_empty());
    publisher.publish("orders", "counted", &1).await.unwrap(); // no read is open now
    assert_eq!(numbers(&coming.wait(Consume::default()).await.unwrap()), [1]);
    {
        let mut waiting = pin!(coming.wait(Consume { block: Duration::from_secs(60), ..Consume::default() }));
        assert!(waits(waiting.as_mut()));
        publisher.publish("orders", "counted", &2).await.unwrap();
        assert_eq!(numbers(&waiting.await.unwrap()), [2]);
    }
    let mut of_nothing = streams.reader(&streams.config().stream_key("empty"));
    of_nothing.skip_to_end().await.unwrap();
    publisher.publish("empty", "counted", &3).await.unwrap();
    assert_eq!(numbers(&of_nothing.wait(Consume::default()).await.unwrap()), [3]);
}

#[tokio::test]
async fn a_stream_that_is_removed_while_it_is_waited_for_ends_no_reader() {
    let streams = streams().await;
    let (key, publisher) = (orders(&streams), streams.publisher());
    let last = publisher.publish("orders", "counted", &0).await.unwrap();
    let mut coming = streams.reader(&key);
    coming.skip_to_end().await.unwrap();
    let mut waiting = pin!(coming.wait(Consume { block: Duration::from_secs(60), ..Consume::default() }));
    assert!(waits(waiting.as_mut()));
    let _: u64 = typed(&streams, &format!("DEL {key}")).await;
    // a stream made anew in the same millisecond reuses an id
    let last = last.as_str().split('-').next().unwrap().parse::<u64>().unwrap();
    until("the clock has gone on", async || {
        let (seconds, micros): (u64, u64) = typed(&streams, "TIME").await;
        seconds * 1_000 + micros / 1_000 > last
    })
    .await;
    publisher.publish("orders", "counted", &1).await.unwrap();
    assert_eq!(numbers(&waiting.await.unwrap()), [1]);
}
