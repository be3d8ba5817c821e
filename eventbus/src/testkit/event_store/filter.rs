//! Rules of filtered reads of the feed, and of counting events.

use std::{fmt::Debug, ops::ControlFlow};

use futures_util::TryStreamExt as _;
use uuid::Uuid;

use super::store_under_test::{StoreUnderTest, copied, events, stream};
use crate::{
    AggregateId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId,
    port::{EventStore, FeedFilter, visited_event::VisitedFeedEvent},
};

const TENANT: Uuid = Uuid::from_u128(7);

fn name(name: &'static str) -> Name {
    Name::from_static(name)
}

/// Appends 12 events of each combination of three aggregate types, two event types, and with and without a tenant.
async fn append_mixture<S: EventStore>(store: &StoreUnderTest<S>) -> Vec<RecordedEvent> {
    let mut all = Vec::new();
    for round in 0..12 {
        for aggregate_type in ["Account", "Order", "account"] {
            let id = AggregateId::new();
            for tenant in [None, Some(TENANT), Some(Uuid::from_u128(8 + round))] {
                let stream = StreamId::new(name(aggregate_type), id.clone()).with_tenant_id(tenant);
                let given = ["Opened", "Closed"].map(|event_type| NewEvent::new(name(event_type), 1, "{}"));
                all.extend(store.add(&stream, ExpectedVersion::NoStream, &given).await);
            }
        }
    }
    all
}

/// Returns filters, each with the number of events of the mixture that match it.
fn filters() -> Vec<(FeedFilter, usize)> {
    let all = FeedFilter::all;
    vec![
        (all(), 216),
        (all().event_types([name("Opened")]), 108),
        (all().event_types([name("Opened"), name("Closed"), name("Never")]), 216),
        (all().event_types([name("opened")]), 0),
        (all().event_types([]), 0),
        (all().aggregate_types([name("Order")]), 72),
        (all().aggregate_types([name("Order"), name("account")]), 144),
        (all().aggregate_types([]), 0),
        (all().tenant(TENANT), 72),
        (all().tenant(Uuid::from_u128(8)), 6),
        (all().tenant(Uuid::nil()), 72),
        (all().aggregate_types([name("Order")]).event_types([name("Closed")]).tenant(TENANT), 12),
        (all().slots(0..=u8::MAX), 216),
        (all().slots([]), 0),
    ]
}

async fn read<S: EventStore>(store: &StoreUnderTest<S>, after: Position, filter: &FeedFilter) -> Vec<RecordedEvent> {
    let head = store.head_position().await;
    read_between(store, after, head, filter).await
}

/// Reads a part of the feed, and checks that a visit shows the same events, and ends where the visitor breaks off.
async fn read_between<S: EventStore>(
    store: &StoreUnderTest<S>,
    after: Position,
    through: Position,
    filter: &FeedFilter,
) -> Vec<RecordedEvent> {
    let read = store.within("reading a filtered feed", store.read_feed(after, through, filter).try_collect()).await;
    let read: Vec<RecordedEvent> = store.ok(read, "reading a filtered feed");
    let shown = |record: &RecordedEvent| {
        let (position, stream) = (record.position().unwrap_or_default(), record.metadata().stream().clone());
        (position, stream, copied(record.fields()))
    };
    for limit in [usize::MAX, read.len() / 2] {
        let mut visited = Vec::new();
        let mut visit = |event: VisitedFeedEvent<'_>| {
            visited.push((event.position, event.stream.clone(), copied(event.fields)));
            if visited.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let visiting = store.within("visiting a feed", store.visit_feed(after, through, filter, &mut visit)).await;
        store.ok(visiting, "visiting a feed");
        let due: Vec<_> = read.iter().take(limit.max(1)).map(shown).collect();
        store.same(visited, due, format_args!("visited after {after} through {through} with {filter:?}"));
    }
    read
}

async fn count<S: EventStore>(
    store: &StoreUnderTest<S>,
    after: Position,
    through: Position,
    filter: &FeedFilter,
) -> u64 {
    let counted = store.within("counting", store.count_events(after, through, filter)).await;
    store.ok(counted, format_args!("counting after {after} through {through}"))
}

/// Checks that `read` holds the events of `all` that match the filter, in the same order.
#[track_caller]
fn assert_matching<S: EventStore>(
    store: &StoreUnderTest<S>,
    all: &[RecordedEvent],
    filter: &FeedFilter,
    read: &[RecordedEvent],
    what: impl Debug,
) {
    let wanted: Vec<_> = all.iter().filter(|event| filter.matches(event)).collect();
    store.same(read.iter().collect(), wanted, format_args!("{what:?} with {filter:?}"));
}

/// A filter passes exactly the events of its types and of its tenant.
pub async fn filters_ask_for_types_and_tenant<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("filters_ask_for_types_and_tenant", store);
    let all = append_mixture(&store).await;
    for (filter, number) in filters() {
        let events = read(&store, Position::START, &filter).await;
        store.same(events.len(), number, format_args!("number of events with {filter:?}"));
        assert_matching(&store, &all, &filter, &events, "from the start");
        for from in [1, 77, 215, 216] {
            let after = all[from - 1].position().unwrap_or_default();
            let events = read(&store, after, &filter).await;
            assert_matching(&store, &all[from..], &filter, &events, after);
        }
    }
}

/// Each stream is in one slot, the same for appended and for read events, so that the slots divide the feed.
pub async fn slots_divide_the_feed<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("slots_divide_the_feed", store);
    let mut all = append_mixture(&store).await;
    let shared = all[0].metadata().stream().clone();
    all.extend(store.add(&shared, ExpectedVersion::Any, &events(3)).await);
    let slot_of = |events: &[RecordedEvent]| events.iter().map(|event| event.slot()).collect::<Vec<_>>();
    let whole = read(&store, Position::START, &FeedFilter::all()).await;
    store.same(slot_of(&whole), slot_of(&all), "the slots of read events");
    let of_stream: Vec<_> = all.iter().filter(|event| *event.metadata().stream() == shared).cloned().collect();
    store.same(slot_of(&store.read(&shared).await), slot_of(&of_stream), "the slots of the events of a stream");
    let positions: Vec<_> = all.iter().filter_map(RecordedEvent::position).collect();
    let found = store.at_positions(&positions).await.into_iter().filter_map(|event| event.ok().flatten());
    store.same(slot_of(&found.collect::<Vec<_>>()), slot_of(&all), "the slots of events at positions");
    store.check(slot_of(&of_stream).iter().all(|slot| *slot == all[0].slot()), "a stream has several slots");
    let mut shared_by_slots = Vec::new();
    for rest in 0..7 {
        let slots: Vec<_> = (0..=u8::MAX).filter(|slot| slot % 7 == rest).collect();
        for filter in [FeedFilter::all(), FeedFilter::all().event_types([name("Opened")]).tenant(TENANT)] {
            let (whole, filter) = (read(&store, Position::START, &filter).await, filter.slots(slots.clone()));
            let part = read(&store, Position::START, &filter).await;
            let wanted: Vec<_> = whole.iter().filter(|event| slots.contains(&event.slot())).collect();
            store.same(part.iter().collect(), wanted, format_args!("events of every seventh slot from {rest} on"));
            let head = store.head_position().await;
            let counted = count(&store, Position::START, head, &filter).await;
            store.same(counted, part.len() as u64, format_args!("the number of events of the slots {rest}"));
        }
        shared_by_slots.extend(read(&store, Position::START, &FeedFilter::all().slots(slots)).await);
    }
    shared_by_slots.sort_by_key(RecordedEvent::position);
    store.same(shared_by_slots, all, "the events of all slots");
}

/// A filtered feed of many pages is read whole, also if long stretches hold no matching event.
pub async fn long_filtered_feeds_are_read_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("long_filtered_feeds_are_read_whole", store);
    let stream = stream();
    let rare = || [NewEvent::new(name("Rare"), 1, "{}")];
    let mut all = Vec::new();
    for round in 0..12 {
        all.extend(store.add(&stream, ExpectedVersion::Any, &events(400)).await);
        if [0, 1, 7, 11].contains(&round) {
            all.extend(store.add(&stream, ExpectedVersion::Any, &rare()).await);
        }
    }
    for filter in [
        FeedFilter::all().event_types([name("Rare")]),
        FeedFilter::all().event_types([name("Counted")]),
        FeedFilter::all().tenant(TENANT),
    ] {
        let events = read(&store, Position::START, &filter).await;
        assert_matching(&store, &all, &filter, &events, "from the start");
    }
}

/// A read of the feed returns the events after one position, up to and including a second one, and no later ones.
pub async fn feeds_end_at_a_position<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("feeds_end_at_a_position", store);
    let stream = stream();
    let mut all = Vec::new();
    for _ in 0..6 {
        all.extend(store.add(&stream, ExpectedVersion::Any, &events(450)).await);
    }
    let at = |index: usize| index.checked_sub(1).and_then(|index| all[index].position()).unwrap_or_default();
    for filter in [FeedFilter::all(), FeedFilter::all().event_types([name("Counted")])] {
        for (after, through) in [(0, 0), (0, 1), (7, 8), (8, 8), (9, 8), (400, 1_700), (0, 2_699), (2_699, 2_700)] {
            let events = read_between(&store, at(after), at(through), &filter).await;
            let wanted = all.get(after..through).unwrap_or_default();
            store.same(&*events, wanted, format_args!("events {after} to {through} with {filter:?}"));
        }
    }
}

/// For every filter and range, the count of events is the number of events that are read.
pub async fn as_many_events_are_counted_as_are_read<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("as_many_events_are_counted_as_are_read", store);
    store.same(count(&store, Position::START, Position::new(u64::MAX), &FeedFilter::all()).await, 0, "an empty store");
    let all = append_mixture(&store).await;
    let at = |index: usize| all[index - 1].position().unwrap_or_default();
    let head = store.head_position().await;
    for (filter, number) in filters() {
        let counted = count(&store, Position::START, head, &filter).await;
        store.same(counted, number as u64, format_args!("all events with {filter:?}"));
        for (after, through) in [(1, 216), (10, 100), (100, 101), (100, 100), (101, 100)] {
            let counted = count(&store, at(after), at(through), &filter).await;
            let wanted = all.iter().take(through).skip(after).filter(|event| filter.matches(event));
            store.same(counted, wanted.count() as u64, format_args!("events {after} to {through} with {filter:?}"));
        }
    }
    let beyond = count(&store, at(216), Position::new(u64::MAX), &FeedFilter::all()).await;
    store.same(beyond, 0, "events after the last one");
}
