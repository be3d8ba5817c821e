//! Reading the stream by hand.

use std::time::{Duration, Instant};

use crate::common::{
    config, config_on, fresh_bus,
    seen::{command, event, make_group, publish},
    until,
};
use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{EventBus, MessageId},
    support::PAGE_BYTES,
};
use eventbus_redis::{Follow, HistoryEntry, RedisCommandError, RedisEventBus};

/// The aggregates of entries that are events.
fn aggregates(entries: &[HistoryEntry]) -> Vec<String> {
    entries.iter().map(aggregate).collect()
}

fn aggregate(entry: &HistoryEntry) -> String {
    entry.event.as_ref().unwrap().metadata().aggregate_id().to_string()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn publish_numbers(bus: &RedisEventBus, range: std::ops::Range<usize>) -> Vec<MessageId> {
    let events: Vec<_> = range.map(|n| event(&n.to_string())).collect();
    bus.publish(&events).await.unwrap()
}

/// The next entry, which is expected to be there soon.
async fn next(follow: &mut Follow) -> HistoryEntry {
    tokio::time::timeout(Duration::from_secs(20), follow.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_to_the_end_and_beyond() {
    let bus = fresh_bus().await;
    let ids = publish_numbers(&bus, 0..2_500).await;
    let mut history = bus.history();
    let (mut read, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = history.page(1_000).await.unwrap();
        sizes.push(page.len());
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(sizes, [1_000, 1_000, 500, 0]);
    assert_eq!(read.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(aggregates(&read), numbers(0..2_500));
    publish(&bus, "later").await;
    assert_eq!(aggregates(&history.page(usize::MAX).await.unwrap()), ["later"]);
}

/// Pages of one stream and of several are bounded by their bytes, for any contents in any order.
#[tokio::test]
async fn a_page_ends_with_the_entry_that_reaches_its_bytes() {
    const KIB: usize = 1_024;
    let sizes: Vec<usize> = [0; 40]
        .into_iter()
        .chain([300 * KIB; 12])
        .chain((0..200).map(|n| n * 17))
        .chain([2_048 * KIB, 0, 0, 2_048 * KIB, 2_048 * KIB, 0])
        .chain((0..30).map(|n| if n % 3 == 0 { 500 * KIB } else { 10 }))
        .collect();
    let bus = RedisEventBus::connect(config()).await.unwrap();
    let mut ids = Vec::new();
    for (number, bytes) in sizes.iter().enumerate() {
        ids.extend(bus.publish(&[large(number, *bytes)]).await.unwrap());
    }
    let (mut history, mut read, mut pages) = (bus.history(), Vec::new(), 0);
    loop {
        let page = history.page(100).await.unwrap();
        assert!(page.len() <= 100);
        let Some((last, before)) = page.split_last() else { break };
        assert!(before.iter().map(bytes).sum::<usize>() < PAGE_BYTES, "a page of {} entries", page.len());
        let is_full = page.len() == 100 || page.iter().map(bytes).sum::<usize>() > PAGE_BYTES / 2;
        assert!(is_full || Some(&last.id) == ids.last(), "a page of {} entries is not full", page.len());
        pages += 1;
        read.extend(page.into_iter().map(|entry| entry.id));
    }
    assert_eq!(read, ids);
    assert!(pages > 10, "{pages} pages");

    let last: Vec<_> = bus.history().last(1_000).await.unwrap();
    let after_first: usize = last.iter().skip(1).map(bytes).sum();
    assert!(after_first < PAGE_BYTES && after_first + bytes(&last[0]) >= PAGE_BYTES, "{after_first}");
    let last: Vec<_> = last.into_iter().map(|entry| entry.id).collect();
    assert_eq!(last, ids[ids.len() - last.len()..]);

    let mut follow = bus.history().follow();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(next(&mut follow).await.id, *id);
        let shown = format!("{follow:?}");
        let ahead: usize = shown.rsplit_once("read: ").unwrap().1.split(',').next().unwrap().parse().unwrap();
        let ahead = &sizes[number + 1..number + 1 + ahead];
        let before = ahead.split_last().map_or(0, |(_, before)| before.iter().sum::<usize>());
        assert!(before < PAGE_BYTES, "{} entries are read ahead, {before} bytes without the last", ahead.len());
    }
}

/// An event with a payload of slightly more than `bytes` bytes.
fn large(number: usize, bytes: usize) -> RecordedEvent {
    let stream = StreamId::parse("Order", &number.to_string()).unwrap();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
    NewEvent::new(Name::from_static("OrderCreated"), 1, payload).recorded_as(stream, Version::FIRST, None)
}

fn bytes(entry: &HistoryEntry) -> usize {
    entry.event.as_ref().unwrap().payload().len()
}

#[tokio::test]
async fn reading_begins_after_any_id_also_of_an_entry_that_is_gone() {
    let bus = fresh_bus().await;
    let ids = publish_numbers(&bus, 0..10).await;
    assert_eq!(aggregates(&bus.history().after(&ids[6]).page(100).await.unwrap()), numbers(7..10));
    let _: i64 = command(&bus, "XDEL", &[&bus.config().stream_name(), ids[6].as_str()]).await;
    assert_eq!(aggregates(&bus.history().after(&ids[6]).page(2).await.unwrap()), numbers(7..9));
    let ms = MessageId::new(ids[0].as_str().split('-').next().unwrap());
    assert_eq!(aggregates(&bus.history().after(&ms).page(1).await.unwrap()), ["1"], "it is that of number 0");
    assert!(bus.history().page(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_last_ones_come_in_their_order_and_what_comes_then_can_be_followed() {
    let bus = fresh_bus().await;
    let mut of_nothing = bus.history();
    assert!(of_nothing.last(3).await.unwrap().is_empty());
    let ids = publish_numbers(&bus, 0..5).await;
    assert_eq!(aggregates(&of_nothing.page(2).await.unwrap()), ["0", "1"], "there was no end to move to");
    let mut history = bus.history();
    assert_eq!(aggregates(&history.last(2).await.unwrap()), ["3", "4"]);
    assert!(history.last(2).await.unwrap().is_empty(), "it has moved to the end");
    assert_eq!(bus.history().last(9).await.unwrap().len(), 5);
    assert_eq!(aggregates(&bus.history().after(&ids[3]).last(9).await.unwrap()), ["4"]);
    let mut at_end = bus.history();
    assert!(at_end.last(0).await.unwrap().is_empty());
    let (mut one, mut two) = (history.follow(), at_end.follow());
    publish(&bus, "new").await;
    assert_eq!(aggregate(&next(&mut one).await), "new");
    assert_eq!(aggregate(&next(&mut two).await), "new");
}

#[tokio::test]
async fn an_entry_that_is_no_event_is_told_by_its_id_and_reading_goes_on() {
    let bus = fresh_bus().await;
    let stream = bus.config().stream_name();
    publish(&bus, "before").await;
    let bad: String = command(&bus, "XADD", &[&stream, "*", "payload", "no json"]).await;
    publish(&bus, "after").await;
    let page = bus.history().page(10).await.unwrap();
    let mut follow = bus.history().follow();
    let followed = [next(&mut follow).await, next(&mut follow).await, next(&mut follow).await];
    let last = bus.history().last(10).await.unwrap();
    for entries in [&page[..], &followed, &last] {
        let error = entries[1].event.as_ref().unwrap_err();
        assert_eq!((entries[1].id.as_str(), error.id.as_str()), (&*bad, &*bad));
        assert!(
            error.to_string().starts_with(&format!("entry {bad} is no event: `payload` does not parse")),
            "{error}"
        );
        assert_eq!([aggregate(&entries[0]), aggregate(&entries[2])], ["before", "after"]);
    }
}

#[tokio::test]
async fn reading_takes_nothing_from_the_groups() {
    let bus = fresh_bus().await;
    make_group(&bus).await;
    publish_numbers(&bus, 0..3).await;
    let before = bus.progress(bus.default_group()).await.unwrap();
    assert_eq!(bus.history().page(10).await.unwrap().len(), 3);
    let mut follow = bus.history().follow();
    for _ in 0..3 {
        next(&mut follow).await;
    }
    assert_eq!(bus.progress(bus.default_group()).await.unwrap(), before);
    let info = bus.stream_info().await;
    assert_eq!((info.consumer_groups.len(), info.active_consumers, info.pending_messages), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn following_survives_a_restart_of_the_server_and_repeats_nothing() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let mut follow = bus.history().follow();
    publish_numbers(&bus, 0..3).await;
    assert_eq!(aggregate(&next(&mut follow).await), "0", "two more are read and not returned yet");
    let following = tokio::spawn(async move {
        let mut seen = vec!["0".to_owned()];
        while seen.len() < 10 {
            seen.push(aggregate(&next(&mut follow).await));
        }
        seen
    });
    for n in 3..10 {
        if n % 3 == 0 {
            server.stop();
            server.start();
        }
        publish(&bus, &n.to_string()).await;
    }
    assert_eq!(following.await.unwrap(), numbers(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_reads_lose_nothing_and_do_not_pile_up() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let mut follow = bus.history().follow();
    let calls = async || {
        let info: redis::InfoDict = command(&bus, "INFO", &["commandstats"]).await;
        let stats: String = info.get("cmdstat_xread").unwrap_or_default();
        stats.split(['=', ',']).nth(1).map_or(0, |calls| calls.parse::<u64>().unwrap())
    };
    let began = Instant::now();
    for _ in 0..100 {
        let soon = tokio::time::timeout(Duration::from_millis(2), follow.next()).await;
        assert!(soon.is_err(), "{soon:?}");
    }
    // the server counts a read when it ends
    publish(&bus, "first").await;
    assert_eq!(aggregate(&next(&mut follow).await), "first");
    let slices = began.elapsed().as_secs() + 1;
    assert!(calls().await <= slices, "{} reads in {slices} slices of a second", calls().await);
    let mut seen = Vec::new();
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move {
            for n in 0..50 {
                bus.publish(&[event(&n.to_string())]).await.unwrap();
            }
        }
    });
    until("all were read", async || {
        if let Ok(entry) = tokio::time::timeout(Duration::from_millis(1), follow.next()).await {
            seen.push(aggregate(&entry.unwrap()));
        }
        seen.len() == 50
    })
    .await;
    publishing.await.unwrap();
    assert_eq!(seen, numbers(0..50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_shut_down_is_read_no_more() {
    let bus = fresh_bus().await;
    let (mut history, mut follow) = (bus.history(), bus.history().follow());
    let following = tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(5), follow.next()).await });
    bus.shutdown(Duration::from_secs(1)).await.unwrap();
    let ended = following.await.unwrap().unwrap();
    assert!(matches!(ended, Err(RedisCommandError::ShutDown { .. })), "{ended:?}");
    let read = history.page(1).await;
    assert!(matches!(read, Err(RedisCommandError::ShutDown { .. })), "{read:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_of_its_kind() {
    let mut server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let too_large = format!("{}0-0", u64::MAX);
    for id in ["", "-", "$", "last", "1-", "1-2-3", "+1-0", "1 2", &too_large] {
        let id = MessageId::new(id);
        let read = bus.history().after(&id).page(1).await;
        assert!(matches!(&read, Err(RedisCommandError::Refused { .. })), "{id}: {read:?}");
        let followed = bus.history().after(&id).follow().next().await;
        assert!(matches!(followed, Err(RedisCommandError::Refused { .. })), "{id}: {followed:?}");
    }
    let _: i64 = command(&bus, "DEL", &[&bus.config().stream_name()]).await;
    assert!(bus.history().page(1).await.unwrap().is_empty(), "a stream that is not there is empty");
    let _: String = command(&bus, "SET", &[&bus.config().stream_name(), "taken"]).await;
    let (read, followed) = (bus.history().page(1).await, bus.history().follow().next().await);
    for error in [read.unwrap_err(), followed.unwrap_err()] {
        assert!(matches!(error, RedisCommandError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    }
    server.stop();
    let error = bus.history().last(1).await.unwrap_err();
    assert!(matches!(error, RedisCommandError::Unavailable { .. }) && error.is_retryable(), "{error:?}");
}
