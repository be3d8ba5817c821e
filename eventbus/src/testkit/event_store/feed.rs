//! Rules of the feed: all events of a store in one order.

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;

use super::store_under_test::{StoreUnderTest, events, positions_grow, stream};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    port::{
        AppendError, EventStore, FeedFilter,
        feed_page::{FeedPage, PageLimits},
    },
    support::{PAGE_BYTES, read_around},
};

/// Time that a reader waits for a signal before it polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The feed returns the events after a position, itself excluded, in position order.
pub async fn feed_starts_after_a_position<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("feed_starts_after_a_position", store);
    store.same(store.feed(Position::START).await, Vec::new(), "an empty store");
    let (one, two) = (stream(), stream());
    let mut all = Vec::new();
    for count in [2, 1, 3] {
        all.extend(store.add(&one, ExpectedVersion::Any, &events(count)).await);
        all.extend(store.add(&two, ExpectedVersion::Any, &events(1)).await);
    }
    store.same(&store.feed(Position::START).await, &all, "from the start");
    for (i, event) in all.iter().enumerate() {
        let after = event.position().unwrap_or_default();
        let read = store.feed(after).await;
        store.same(&*read, &all[i + 1..], format_args!("after {after}"));
    }
    for beyond in [i64::MAX as u64, u64::MAX] {
        let read = store.feed(beyond.into()).await;
        store.same(read, Vec::new(), "beyond the end");
    }
}

/// A feed of many pages is read whole, each stream in the order of its versions.
pub async fn long_feeds_are_read_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("long_feeds_are_read_whole", store);
    let streams = [stream(), stream(), stream()];
    let mut all = Vec::new();
    for i in 0..50 {
        let stream = &streams[i % 3];
        all.extend(store.add(stream, ExpectedVersion::Any, &events(50)).await);
    }
    let feed = store.feed(Position::START).await;
    store.check(positions_grow(&feed), "positions do not grow");
    store.same(&feed, &all, "the feed");
    let few = store.read_all(all[1_232].position().unwrap_or_default());
    let few: Vec<_> = store.ok(few.take(3).try_collect().await, "reading three events");
    store.same(&*few, &all[1_233..1_236], "three events from the middle");
}

/// A read at positions, in any order and with repeats, returns the event at each position, or none where there is no
/// event. A store may read the first ones only; asked for the rest, it reads on.
pub async fn events_are_read_at_positions<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("events_are_read_at_positions", store);
    let (one, two) = (stream(), stream());
    let mut all = Vec::new();
    let text = "x".repeat(PAGE_BYTES / 3);
    let large = || NewEvent::new(Name::from_static("Scanned"), 1, format!(r#"{{"text":"{text}"}}"#));
    for _ in 0..8 {
        all.extend(store.add(&one, ExpectedVersion::Any, &events(2)).await);
        all.extend(store.add(&two, ExpectedVersion::Any, &[large()]).await);
    }
    let mut wanted: Vec<_> = all.into_iter().rev().map(Some).collect();
    wanted.swap(3, 11);
    wanted.push(wanted[5].clone());
    let position_of = |event: &Option<RecordedEvent>| event.as_ref().and_then(RecordedEvent::position);
    let mut positions: Vec<_> = wanted.iter().map(|event| position_of(event).unwrap_or_default()).collect();
    for (place, beyond) in [(0, 0), (7, u64::MAX), (9, i64::MAX as u64 - 1)] {
        wanted.insert(place, None);
        positions.insert(place, Position::new(beyond));
    }
    let read = store.at_positions(&positions).await;
    let read: Vec<_> = read.into_iter().map(|event| store.ok(event, "reading an event")).collect();
    store.same(read, wanted, "the events at the positions");
    store.same(store.read_events_at(&[]).await.len(), 0, "no positions");
}

/// A feed read around skipped positions returns all other events, in order. The skipped positions may be the first, the
/// last, neighbours, all, or have no event.
pub async fn feeds_are_read_around_skipped_positions<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("feeds_are_read_around_skipped_positions", store);
    let (one, two) = (stream(), stream());
    let mut all = Vec::new();
    for round in 0..150 {
        all.extend(store.add(if round % 3 == 0 { &one } else { &two }, ExpectedVersion::Any, &events(2)).await);
    }
    let at = |index: usize| all[index].position().unwrap_or_default();
    let (head, last) = (store.head_position().await, all.len() - 1);
    let beyond = Position::new(head.get() + 7);
    let some = (0..=last).filter(|index| index % 7 < 3).map(at).collect();
    let sets = [vec![at(0)], vec![at(last)], vec![at(4), at(5), at(6), at(9)], some, (0..=last).map(at).collect()];
    for skipped in sets.into_iter().chain([vec![at(0), beyond], vec![beyond], Vec::new()]) {
        for (after, through) in [(Position::START, head), (at(3), at(8)), (at(5), head), (head, head)] {
            let read = read_around(&*store, after, through, &FeedFilter::all(), &skipped);
            let read: Vec<_> = store.ok(read.try_collect().await, "reading around positions");
            let is_wanted = |event: &&RecordedEvent| {
                let position = event.position().unwrap_or_default();
                position > after && position <= through && !skipped.contains(&position)
            };
            let wanted: Vec<_> = all.iter().filter(is_wanted).cloned().collect();
            store.same(read, wanted, format_args!("from {after} through {through} around {} positions", skipped.len()));
        }
    }
}

/// Events appended while the feed is read do not break it: the reader continues where it was, and misses none.
pub async fn appends_do_not_break_an_open_feed<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("appends_do_not_break_an_open_feed", store);
    let stream = stream();
    for _ in 0..3 {
        store.add(&stream, ExpectedVersion::Any, &events(500)).await;
    }
    let mut open = store.read_all(Position::START);
    let first = store.ok(open.next().await.transpose(), "the first event");
    let append = store.append(&stream, ExpectedVersion::Any, events(500));
    let appended = store.within("append beside an open read", append).await;
    store.ok(appended, "append beside an open read");
    let mut read: Vec<_> = first.into_iter().collect();
    let rest: Vec<_> = store.ok(open.try_collect().await, "the rest");
    read.extend(rest);
    store.check(read.len() >= 1_500, format_args!("the reader saw {} of 1,500 events", read.len()));
    let last = read.last().and_then(RecordedEvent::position);
    read.extend(store.feed(last.unwrap_or_default()).await);
    store.same(read, store.feed(Position::START).await, "events as read");
}

/// Once all writers have finished, the head is at or after every event, and reading after it returns no event.
pub async fn head_is_at_or_after_the_last_event<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("head_is_at_or_after_the_last_event", store);
    let mut before = store.head_position().await;
    let stream = stream();
    for count in [1, 4] {
        let recorded = store.add(&stream, ExpectedVersion::Any, &events(count)).await;
        let last = recorded.last().and_then(RecordedEvent::position).unwrap_or_default();
        let first = recorded.first().and_then(RecordedEvent::position).unwrap_or_default();
        let head = store.head_position().await;
        store.check(first > before, format_args!("{first} appeared below head {before}"));
        store.check(head >= last, format_args!("head {head} is below event {last}"));
        store.same(store.feed(head).await, Vec::new(), "after the head");
        before = head;
    }
}

/// A reader that follows while many writers append sees every event once, in order, each stream in version order.
pub async fn feed_never_skips_repeats_or_reorders<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("feed_never_skips_repeats_or_reorders", store);
    let writers = write_concurrently(&store);
    let seen = store.within("following the feed", follow(&store, writers, false)).await;
    check_feed(&store, &seen).await;
}

/// Events up to the head are final: a reader that continues after the head misses none.
pub async fn nothing_appears_at_or_below_the_head<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("nothing_appears_at_or_below_the_head", store);
    let writers = write_concurrently(&store);
    let seen = store.within("following the feed", follow(&store, writers, true)).await;
    check_feed(&store, &seen).await;
}

/// Readers of pages that come with the end of the feed miss no event while many writers append: each page is read after
/// its end.
pub async fn pages_are_read_after_their_end<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("pages_are_read_after_their_end", store);
    let writers = write_concurrently(&store);
    let seen = store.within("following the feed by pages", follow_pages(&store, writers)).await;
    check_feed(&store, &seen).await;
}

/// A page has the first events after a position that match, as many as the limits allow, and says how far it reaches.
pub async fn pages_reach_as_far_as_they_say<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("pages_reach_as_far_as_they_say", store);
    let empty = page(&store, Position::START, &FeedFilter::all(), limits(7)).await;
    let at_start = (empty.events.len(), empty.end.head, empty.through);
    store.same(at_start, (0, Position::START, Position::START), "a page of an empty store");
    let (one, two) = (stream(), stream());
    let rare = || [NewEvent::new(Name::from_static("Rare"), 1, r#"{"text":"rare"}"#)];
    let mut all = Vec::new();
    for round in 0..6 {
        all.extend(store.add(&one, ExpectedVersion::Any, &events(40)).await);
        all.extend(store.add(&two, ExpectedVersion::Any, &events(2)).await);
        if round % 3 == 1 {
            all.extend(store.add(&two, ExpectedVersion::Any, &rare()).await);
        }
    }
    let head = store.head_position().await;
    let filters = [
        FeedFilter::all(),
        FeedFilter::all().event_types([Name::from_static("Rare")]),
        FeedFilter::all().slots([all[0].slot()]),
        FeedFilter::all().slots([all[40].slot()]).event_types([Name::from_static("Counted")]),
        FeedFilter::all().aggregate_types([one.aggregate_type().clone()]).tenant(Uuid::nil()),
        FeedFilter::all().slots([]),
    ];
    let most = [limits(1), limits(7), limits(5_000), PageLimits { bytes: 60, ..limits(5_000) }];
    for (filter, limits) in filters.iter().flat_map(|filter| most.map(|limits| (filter, limits))) {
        let wanted: Vec<_> = all.iter().filter(|event| filter.matches(event)).cloned().collect();
        let (mut read, mut after) = (Vec::new(), Position::START);
        while after < head {
            let page = page(&store, after, filter, limits).await;
            store.check(page.through > after, format_args!("a page after {after} ends at {}", page.through));
            let (_, before) = page.events.split_last().unzip();
            let bytes: usize =
                before.unwrap_or_default().iter().map(|event: &RecordedEvent| event.payload().len()).sum();
            let is_within = page.events.len() <= limits.events.get() && bytes < limits.bytes;
            store.check(is_within, format_args!("{} events in a page of {limits:?}", page.events.len()));
            read.extend(page.events);
            let reached = wanted.iter().filter(|event| event.position() <= Some(page.through)).count();
            store.same(read.len(), reached, format_args!("events up to {} with {filter:?}", page.through));
            after = page.through;
        }
        store.same(&read, &wanted, format_args!("all pages of {limits:?} with {filter:?}"));
    }
    for after in [head, Position::new(i64::MAX as u64)] {
        let page = page(&store, after, &FeedFilter::all(), limits(7)).await;
        store.same(
            (page.events.len(), page.through),
            (0, after),
            format_args!("a page after {after}, beyond the head"),
        );
    }
}

fn limits(events: usize) -> PageLimits {
    PageLimits { events: NonZeroUsize::new(events).unwrap_or(NonZeroUsize::MIN), bytes: PAGE_BYTES }
}

async fn page<S: EventStore>(
    store: &StoreUnderTest<S>,
    after: Position,
    filter: &FeedFilter,
    limits: PageLimits,
) -> FeedPage {
    let page = store.within("reading a page", store.read_page(after, filter, limits)).await;
    store.ok(page, format_args!("reading a page after {after}"))
}

/// Reads pages until the writers have finished and no event remains.
async fn follow_pages<S: EventStore>(store: &StoreUnderTest<S>, writers: JoinHandle<()>) -> Vec<RecordedEvent> {
    let (mut seen, mut after) = (Vec::new(), Position::START);
    let mut signal = store.appended().watch();
    loop {
        // checked before reading: events appended later belong to the next page
        let done = writers.is_finished();
        let page = page(store, after, &FeedFilter::all(), limits(100)).await;
        after = page.through;
        if page.events.is_empty() && done {
            store.ok(writers.await, "a writer");
            return seen;
        }
        if page.events.is_empty() {
            let _ = tokio::time::timeout(POLL_INTERVAL, signal.appended()).await;
        }
        seen.extend(page.events);
    }
}

/// Eight writers on five streams, with refused appends among the accepted ones.
fn write_concurrently<S: EventStore>(store: &StoreUnderTest<S>) -> JoinHandle<()> {
    let streams: [StreamId; 5] = std::array::from_fn(|_| stream());
    let store = store.clone();
    tokio::spawn(async move {
        store
            .at_once(8, |writer| {
                let (store, streams) = (store.clone(), streams.clone());
                async move { write(&store, &streams, writer).await }
            })
            .await;
    })
}

async fn write<S: EventStore>(store: &StoreUnderTest<S>, streams: &[StreamId], writer: usize) {
    for i in 0..50 {
        let stream = &streams[(writer + i) % streams.len()];
        let given = events(1 + i % 3);
        if i % 5 == 4 {
            let version = store.ok(store.stream_version(stream).await, "asking for the version");
            match store.append(stream, ExpectedVersion::Exact(version), given).await {
                Ok(_) | Err(AppendError::Conflict { .. }) => {}
                Err(other) => store.fail(format_args!("append failed: {other:?}")),
            }
        } else {
            store.add(stream, ExpectedVersion::Any, &given).await;
        }
    }
}

/// Reads until the writers have finished and no event remains.
async fn follow<S: EventStore>(
    store: &StoreUnderTest<S>,
    writers: JoinHandle<()>,
    jump_to_head: bool,
) -> Vec<RecordedEvent> {
    let mut seen = Vec::new();
    let mut after = Position::START;
    let mut signal = store.appended().watch();
    loop {
        // checked before reading: events appended later belong to the next round
        let done = writers.is_finished();
        let head = store.head_position().await;
        let read = if jump_to_head { store.between(after, head).await } else { store.feed(after).await };
        if let Some(last) = read.last().and_then(RecordedEvent::position) {
            after = last;
        }
        if jump_to_head {
            after = after.max(head);
        }
        if read.is_empty() && done {
            store.ok(writers.await, "a writer");
            return seen;
        }
        if read.is_empty() {
            // polls after a signal and after the interval alike
            let _ = tokio::time::timeout(POLL_INTERVAL, signal.appended()).await;
        }
        seen.extend(read);
    }
}

async fn check_feed<S: EventStore>(store: &StoreUnderTest<S>, seen: &[RecordedEvent]) {
    store.check(positions_grow(seen), "positions do not grow");
    let mut versions: HashMap<&StreamId, Version> = HashMap::new();
    for event in seen {
        let version = versions.entry(event.metadata().stream()).or_default();
        let stream = event.metadata().stream();
        store.same(event.version(), version.next(), format_args!("next version of {stream} as seen"));
        *version = event.version();
    }
    for (stream, version) in versions {
        let stored = store.ok(store.stream_version(stream).await, "asking for the version");
        store.same(version, stored, format_args!("last version of {stream} as seen"));
    }
    let stored = store.feed(Position::START).await;
    store.check(stored == seen, format_args!("{} events were seen, {} are stored", seen.len(), stored.len()));
}

/// An append wakes all watchers; a signal sent before a watcher waits is not lost.
pub async fn append_wakes_who_watches<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("append_wakes_who_watches", store);
    let stream = stream();
    let mut early = store.appended().watch();
    let mut waiting = store.appended().watch();
    let waiter = tokio::spawn(async move { waiting.appended().await });
    tokio::task::yield_now().await;
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &events(1)).await;
    let woken = store.within("waking a waiting watcher", waiter).await;
    store.ok(woken, "waking a waiting watcher");
    store.within("waking a watcher that waits later", early.appended()).await;
    let read = store.feed(Position::START).await;
    store.same(read, recorded, "what the signal announced");
}
