//! Rules of the expected version of an append.

use super::store_under_test::{StoreUnderTest, events, stream};
use crate::{ExpectedVersion, Version, port::EventStore};

/// `NoStream` accepts only a stream without events.
pub async fn no_stream_accepts_only_a_new_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("no_stream_accepts_only_a_new_stream", store);
    let stream = stream();
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &events(2)).await;
    store.conflict(&stream, ExpectedVersion::NoStream, 2).await;
    store.holds(&stream, &recorded).await;
}

/// `StreamExists` accepts only a stream with events.
pub async fn stream_exists_accepts_only_an_existing_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("stream_exists_accepts_only_an_existing_stream", store);
    let stream = stream();
    store.conflict(&stream, ExpectedVersion::StreamExists, 0).await;
    store.holds(&stream, &[]).await;
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(1)).await;
    all.extend(store.add(&stream, ExpectedVersion::StreamExists, &events(2)).await);
    store.holds(&stream, &all).await;
}

/// `Exact(n)` accepts only a stream at version n: not an older one, a newer one or a missing one.
pub async fn exact_accepts_only_that_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("exact_accepts_only_that_version", store);
    let stream = stream();
    let exact = |version: u64| ExpectedVersion::Exact(version.into());
    for wrong in [1, 2, u64::MAX] {
        store.conflict(&stream, exact(wrong), 0).await;
    }
    let mut all = store.add(&stream, exact(0), &events(2)).await;
    for wrong in [0, 1, 3, i64::MAX as u64, u64::MAX] {
        store.conflict(&stream, exact(wrong), 2).await;
    }
    all.extend(store.add(&stream, exact(2), &events(1)).await);
    all.extend(store.add(&stream, exact(3), &events(3)).await);
    store.conflict(&stream, exact(3), 6).await;
    store.holds(&stream, &all).await;
}

/// `Exact(Version::NONE)` is the same as `NoStream`.
pub async fn exact_none_is_no_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("exact_none_is_no_stream", store);
    let stream = stream();
    let none = ExpectedVersion::Exact(Version::NONE);
    let recorded = store.add(&stream, none, &events(1)).await;
    store.conflict(&stream, none, 1).await;
    store.conflict(&stream, ExpectedVersion::NoStream, 1).await;
    store.holds(&stream, &recorded).await;
}

/// `Any` accepts every stream.
pub async fn any_accepts_every_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("any_accepts_every_stream", store);
    let stream = stream();
    let mut all = store.add(&stream, ExpectedVersion::Any, &events(1)).await;
    all.extend(store.add(&stream, ExpectedVersion::Any, &events(2)).await);
    store.holds(&stream, &all).await;
}

/// A conflict reports itself as such and as not retryable, and stores no event in any stream.
pub async fn conflict_stores_nothing<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("conflict_stores_nothing", store);
    let (stream, missing) = (stream(), stream());
    let recorded = store.add(&stream, ExpectedVersion::NoStream, &events(3)).await;
    for (stream, expected, actual) in [
        (&stream, ExpectedVersion::NoStream, 3),
        (&stream, ExpectedVersion::Exact(2.into()), 3),
        (&missing, ExpectedVersion::StreamExists, 0),
        (&missing, ExpectedVersion::Exact(1.into()), 0),
    ] {
        let error = store.conflict(stream, expected, actual).await;
        store.check(error.is_conflict(), "is_conflict() denies it");
        store.check(!error.is_retryable(), "is_retryable() claims it");
    }
    let feed = store.feed(crate::Position::START).await;
    store.same(&feed, &recorded, "the store holds other events");
    store.holds(&missing, &[]).await;
}

/// Refused events can be appended later with the same ids: a refusal leaves no trace of them.
pub async fn refused_events_can_be_appended_later<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("refused_events_can_be_appended_later", store);
    let stream = stream();
    let given = events(2);
    store.refused(&stream, ExpectedVersion::StreamExists, &given).await;
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(1)).await;
    store.refused(&stream, ExpectedVersion::NoStream, &given).await;
    all.extend(store.add(&stream, ExpectedVersion::Exact(1.into()), &given).await);
    store.holds(&stream, &all).await;
}
