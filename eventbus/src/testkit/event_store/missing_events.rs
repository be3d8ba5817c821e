//! Rules of events that other software removed: they are errors, never passed over.

use futures_util::StreamExt as _;

use super::store_under_test::{StoreUnderTest, events, stream};
use crate::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{EventStore, FeedFilter, MissingEvent, ReadError, RecordStream},
};

/// A search of all streams, and one of a single stream, finds a removed event wherever it was in its stream, and finds
/// none where none is missing.
///
/// `remove_event` deletes an event as other software would. No macro lists this rule; a backend whose events other
/// software can remove calls it.
pub async fn missing_events_are_found<S: EventStore>(store: S, remove_event: impl AsyncFn(&RecordedEvent)) {
    let store = StoreUnderTest::new("missing_events_are_found", store);
    let find = async |stream: Option<&StreamId>| store.ok(store.find_missing_event(stream).await, "searching");
    store.same(find(None).await, None, "in an empty store");
    store.same(find(Some(&stream())).await, None, "in a stream without events");
    let streams: [StreamId; 5] = std::array::from_fn(|_| stream());
    let mut of_streams = Vec::new();
    for stream in &streams {
        of_streams.push(store.add(stream, ExpectedVersion::NoStream, &events(10)).await);
    }
    // the last event of the store stays, since SQLite refuses to delete it
    store.add(&stream(), ExpectedVersion::NoStream, &events(1)).await;
    for stream in [None].into_iter().chain(streams.iter().map(Some)) {
        store.same(find(stream).await, None, "while none is missing");
    }
    let mut missing = Vec::new();
    // the lowest version of those removed is missing: one within, the first, the last, all
    for (index, removed, version) in
        [(3, vec![5, 7], 5), (1, vec![1], 1), (2, vec![10], 10), (0, (1..=10).collect(), 1), (4, vec![9, 10], 9)]
    {
        let stream = &streams[index];
        for &version in &removed {
            remove_event(&of_streams[index][version - 1]).await;
        }
        missing.push(MissingEvent { stream: stream.clone(), version: Version::new(version) });
        if removed.len() < 10 {
            let wanted = missing.last().cloned();
            store.same(find(Some(stream)).await, wanted, format_args!("versions {removed:?} are removed"));
        }
        let found = find(None).await;
        let is_missing = found.as_ref().is_some_and(|found| missing.contains(found));
        store.check(is_missing, format_args!("a search of all streams finds {found:?}, and {missing:?} are missing"));
    }
}

/// A search of all streams finds that a stream has lost all its events, or its last ones.
///
/// `remove_event` deletes an event as other software would. No macro lists this rule; a backend whose events other
/// software can remove calls it.
pub async fn missing_ends_of_streams_are_found<S: EventStore>(store: S, remove_event: impl AsyncFn(&RecordedEvent)) {
    let store = StoreUnderTest::new("missing_ends_of_streams_are_found", store);
    let (whole, lost) = (stream(), stream());
    store.add(&whole, ExpectedVersion::NoStream, &events(3)).await;
    let recorded = store.add(&lost, ExpectedVersion::NoStream, &events(4)).await;
    store.add(&whole, ExpectedVersion::Any, &events(1)).await;
    for event in recorded.iter().rev() {
        remove_event(event).await;
        let found = store.ok(store.find_missing_event(None).await, "searching");
        let wanted = MissingEvent { stream: lost.clone(), version: event.version() };
        store.same(found, Some(wanted), "by a search of all streams");
    }
}

/// An unfiltered read of the feed returns the events before a gap in a stream, then an error that names the missing
/// event; a reader that reads again from there gets the error again. The gap is found within a page and across pages.
///
/// `remove_event` deletes an event as other software would. No macro lists this rule; a backend whose events other
/// software can remove calls it.
pub async fn feed_stops_at_a_missing_event<S: EventStore>(store: S, remove_event: impl AsyncFn(&RecordedEvent)) {
    let store = StoreUnderTest::new("feed_stops_at_a_missing_event", store);
    let (one, two) = (stream(), stream());
    let mut all = Vec::new();
    for _ in 0..60 {
        all.extend(store.add(&one, ExpectedVersion::Any, &events(1)).await);
        all.extend(store.add(&two, ExpectedVersion::Any, &events(49)).await);
    }
    // behind 250 and 1,000 events, as many as a page may have; from the last one on, so that the new gap is the first
    for version in [41, 21, 6, 1] {
        let (place, next) = ((version - 1) * 50, version * 50);
        remove_event(&all[place]).await;
        let (returned, error) = read_until_error(&store, store.read_all(Position::START)).await;
        // a store with a list of its events stops where the event was, other stores at the next event of the stream
        let wanted = if returned.len() == place { &all[..place] } else { &all[..next] };
        let wanted: Vec<_> = wanted.iter().filter(|event| **event != all[place]).cloned().collect();
        store.same(&returned, &wanted, format_args!("events before the gap at version {version}"));
        check_names(&store, &error, &one, version as u64);
        let last = returned.last().and_then(RecordedEvent::position).unwrap_or_default();
        let (returned, error) = read_until_error(&store, store.read_all(last)).await;
        store.same(returned.len(), 0, "events behind the gap");
        check_names(&store, &error, &one, version as u64);
    }
}

/// A filtered read of the feed returns every stored event that matches, although an event of their stream is missing:
/// it cannot tell a missing version from one that does not match. Only a store with a list of its events stops where
/// the missing event was, if that event matches. Either way a search finds the missing event.
///
/// `remove_event` deletes an event as other software would. No macro lists this rule; a backend whose events other
/// software can remove calls it.
pub async fn filtered_feed_omits_a_missing_event<S: EventStore>(store: S, remove_event: impl AsyncFn(&RecordedEvent)) {
    let store = StoreUnderTest::new("filtered_feed_omits_a_missing_event", store);
    let stream = stream();
    let names = ["Opened", "Closed"].map(Name::from_static);
    let given = [0, 1, 0, 1, 0, 1].map(|name: usize| NewEvent::new(names[name].clone(), 1, "{}"));
    let all = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    remove_event(&all[2]).await;
    let head = store.head_position().await;
    let [opened, closed] = names.map(|name| FeedFilter::all().event_types([name]));
    let stored = |filter: &FeedFilter| -> Vec<RecordedEvent> {
        all.iter().filter(|event| event.version().get() != 3 && filter.matches(event)).cloned().collect()
    };
    let mut read = store.read_feed(Position::START, head, &closed);
    let mut returned = Vec::new();
    while let Some(event) = read.next().await {
        returned.push(store.ok(event, "reading events of the other type"));
    }
    store.same(&returned, &stored(&closed), "events of the other type");
    let mut read = store.read_feed(Position::START, head, &opened);
    let mut returned = Vec::new();
    while let Some(event) = read.next().await {
        match event {
            Ok(event) => returned.push(event),
            Err(error) => {
                check_names(&store, &error, &stream, 3);
                store.same(returned.len(), 1, "events before the error");
                returned = stored(&opened);
            }
        }
    }
    store.same(&returned, &stored(&opened), "events of the type of the missing one");
    let found = store.ok(store.find_missing_event(None).await, "searching");
    store.same(found, Some(MissingEvent { stream, version: Version::new(3) }), "by a search of all streams");
}

/// A read at positions fails at a missing event, or at the next event of its stream, and returns all other events.
///
/// `remove_event` deletes an event as other software would. No macro lists this rule; a backend whose events other
/// software can remove calls it.
pub async fn missing_event_fails_at_its_position<S: EventStore>(store: S, remove_event: impl AsyncFn(&RecordedEvent)) {
    let store = StoreUnderTest::new("missing_event_fails_at_its_position", store);
    let stream = stream();
    let all = store.add(&stream, ExpectedVersion::NoStream, &events(6)).await;
    remove_event(&all[2]).await;
    let positions: Vec<_> = all.iter().map(|event| event.position().unwrap_or_default()).collect();
    let read = store.at_positions(&positions).await;
    for place in [0, 1, 4, 5] {
        let event = read[place].as_ref().ok().and_then(Option::as_ref);
        store.same(event, Some(&all[place]), format_args!("the event of version {}", place + 1));
    }
    match (&read[2], &read[3]) {
        (Err(error), _) | (Ok(None), Err(error)) => check_names(&store, error, &stream, 3),
        passed => store.fail(format_args!("the missing event is passed over: {passed:?}")),
    }
}

fn check_names<S: EventStore>(store: &StoreUnderTest<S>, error: &ReadError, stream: &StreamId, version: u64) {
    let ReadError::Corrupt { place, .. } = error else { store.fail(format_args!("not corrupt but {error:?}")) };
    store.check(place.contains(stream.aggregate_id().as_str()), format_args!("`{place}` does not name {stream}"));
    let is_named = place.split(|c: char| !c.is_ascii_digit()).any(|number| number.parse() == Ok(version));
    store.check(is_named, format_args!("`{place}` does not name version {version}"));
}

/// Reads up to the error, which must be the last item.
async fn read_until_error<S: EventStore>(
    store: &StoreUnderTest<S>,
    mut read: RecordStream<'_>,
) -> (Vec<RecordedEvent>, ReadError) {
    let mut returned = Vec::new();
    while let Some(event) = read.next().await {
        match event {
            Ok(event) => returned.push(event),
            Err(error) => {
                store.check(read.next().await.is_none(), "the read goes on after the error");
                return (returned, error);
            }
        }
    }
    store.fail(format_args!("the feed passes over the missing event: {} events, no error", returned.len()))
}
