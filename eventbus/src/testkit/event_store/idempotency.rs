//! Rules of repeated appends, and of event ids already in use.

use uuid::Uuid;

use super::store_under_test::{StoreUnderTest, event, events, stream};
use crate::{
    AggregateId, EventId, ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{AppendError, EventStore},
};

const EVERY_EXPECTATION_OF_A_NEW_STREAM: [ExpectedVersion; 3] =
    [ExpectedVersion::NoStream, ExpectedVersion::Exact(crate::Version::NONE), ExpectedVersion::Any];

/// Appending the same ids again returns the first result and writes no events.
pub async fn repeat_returns_the_first_result<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_returns_the_first_result", store);
    for expected in EVERY_EXPECTATION_OF_A_NEW_STREAM {
        for count in [1, 3] {
            let (stream, given) = (stream(), events(count));
            let first = store.add(&stream, expected, &given).await;
            for _ in 0..3 {
                let again = store.add(&stream, expected, &given).await;
                store.same(&again, &first, format_args!("repeat at {expected}"));
            }
            store.holds(&stream, &first).await;
        }
    }
}

/// A repeat is recognised whichever version it expects: a caller that repeats cannot know the current version.
pub async fn repeat_is_known_at_every_expectation<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_is_known_at_every_expectation", store);
    let (stream, given) = (stream(), events(2));
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(1)).await;
    let first = store.add(&stream, ExpectedVersion::Exact(1.into()), &given).await;
    all.extend(first.clone());
    for expected in [
        ExpectedVersion::Any,
        ExpectedVersion::NoStream,
        ExpectedVersion::StreamExists,
        ExpectedVersion::Exact(1.into()),
        ExpectedVersion::Exact(3.into()),
        ExpectedVersion::Exact(9.into()),
    ] {
        let again = store.add(&stream, expected, &given).await;
        store.same(&again, &first, format_args!("repeat at {expected}"));
    }
    store.holds(&stream, &all).await;
}

/// A repeat is recognised also after later appends, and so is each of its events alone.
pub async fn repeat_is_known_after_other_events<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_is_known_after_other_events", store);
    for expected in EVERY_EXPECTATION_OF_A_NEW_STREAM {
        let (stream, given) = (stream(), events(2));
        let first = store.add(&stream, expected, &given).await;
        let mut all = first.clone();
        all.extend(store.add(&stream, ExpectedVersion::Any, &events(2)).await);
        let again = store.add(&stream, expected, &given).await;
        store.same(&again, &first, format_args!("repeat at {expected}"));
        let second = store.add(&stream, expected, &given[1..]).await;
        store.same(&*second, &first[1..], "repeat of the second event alone");
        store.holds(&stream, &all).await;
    }
}

/// The id alone identifies a repeat: other contents under a known id change no record.
pub async fn repeat_does_not_overwrite<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("repeat_does_not_overwrite", store);
    let stream = stream();
    let given = event();
    let first = store.add(&stream, ExpectedVersion::NoStream, std::slice::from_ref(&given)).await;
    let other = NewEvent::new(Name::from_static("Withdrawn"), 2, "{}").with_event_id(given.event_id());
    let again = store.add(&stream, ExpectedVersion::NoStream, &[other]).await;
    store.same(&again, &first, "repeat with other contents");
    store.holds(&stream, &first).await;
}

/// An append sent many times at once is stored once, and all calls return the same result.
pub async fn concurrent_repeats_are_stored_once<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("concurrent_repeats_are_stored_once", store);
    for expected in EVERY_EXPECTATION_OF_A_NEW_STREAM {
        let (stream, given) = (stream(), events(2));
        let answers = store
            .at_once(16, |_| {
                let (store, stream, given) = (store.clone(), stream.clone(), given.clone());
                async move { store.add(&stream, expected, &given).await }
            })
            .await;
        for answer in &answers {
            store.same(answer, &answers[0], format_args!("answers at {expected}"));
        }
        store.holds(&stream, &answers[0]).await;
    }
}

/// An append with both known and new ids is refused: it is no repeat of an earlier append.
pub async fn partly_known_ids_are_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("partly_known_ids_are_refused", store);
    let stream = stream();
    let first = store.add(&stream, ExpectedVersion::NoStream, &events(2)).await;
    let known = event().with_event_id(first[1].metadata().event_id());
    for given in [[known.clone(), event()], [event(), known.clone()]] {
        for expected in [
            ExpectedVersion::Any,
            ExpectedVersion::NoStream,
            ExpectedVersion::Exact(1.into()),
            ExpectedVersion::Exact(2.into()),
        ] {
            assert_id_taken(&store, &stream, expected, &given, known.event_id()).await;
        }
    }
    store.holds(&stream, &first).await;
}

/// An event id is unique within its stream: streams that differ in type, id or tenant alone each store it.
pub async fn streams_may_share_an_event_id<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("streams_may_share_an_event_id", store);
    let id = AggregateId::new();
    let account = StreamId::new(Name::from_static("Account"), id.clone());
    let owner = StreamId::new(Name::from_static("Owner"), id);
    let streams = [account.clone(), account.with_tenant_id(Some(Uuid::from_u128(1))), owner, stream()];
    let given = events(2);
    let mut stored = Vec::new();
    for (expected, stream) in EVERY_EXPECTATION_OF_A_NEW_STREAM.into_iter().cycle().zip(&streams) {
        stored.push(store.add(stream, expected, &given).await);
    }
    for (stream, first) in streams.iter().zip(&stored) {
        let again = store.add(stream, ExpectedVersion::NoStream, &given).await;
        store.same(&again, first, "repeat");
        store.holds(stream, first).await;
    }
    store.same(store.feed(Position::START).await, stored.concat(), "the feed");
}

/// An append that contains an id twice is refused.
pub async fn id_twice_in_one_append_is_refused<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("id_twice_in_one_append_is_refused", store);
    let stream = stream();
    let twice = event();
    let given = [twice.clone(), event(), twice.clone()];
    for expected in EVERY_EXPECTATION_OF_A_NEW_STREAM {
        assert_id_taken(&store, &stream, expected, &given, twice.event_id()).await;
    }
    store.holds(&stream, &[]).await;
}

async fn assert_id_taken<S: EventStore>(
    store: &StoreUnderTest<S>,
    stream: &StreamId,
    expected: ExpectedVersion,
    given: &[NewEvent],
    culprit: EventId,
) {
    match store.refused(stream, expected, given).await {
        AppendError::EventIdTaken { event_id, stream: named } => {
            store.same(event_id, culprit, "the refusal names another event");
            store.same(&named, stream, "the refusal names another stream");
        }
        other => store.fail(format_args!("at {expected} it is not `EventIdTaken` but {other:?}")),
    }
}
