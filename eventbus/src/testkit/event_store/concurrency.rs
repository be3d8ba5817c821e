//! Rules of concurrent writers.

use super::store_under_test::{StoreUnderTest, event, events, stream, versions};
use crate::{
    ExpectedVersion, Name, NewEvent, Version,
    port::{AppendError, EventStore},
};

/// `Any` never conflicts, however many writers a stream has; each append keeps its events together.
pub async fn any_never_conflicts<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("any_never_conflicts", store);
    let stream = stream();
    let answers = store
        .at_once(16, |_| {
            let (store, stream) = (store.clone(), stream.clone());
            async move {
                let mut answers = Vec::new();
                for count in [1, 2, 1, 3, 1] {
                    let given = events(count);
                    let recorded = store.add(&stream, ExpectedVersion::Any, &given).await;
                    let ids = recorded.iter().map(|event| event.metadata().event_id());
                    store.check(ids.eq(given.iter().map(NewEvent::event_id)), "an append returned other events");
                    let first = recorded[0].version().get();
                    let together = (first..).take(count).collect();
                    store.same(versions(&recorded), together, "versions of one append");
                    answers.extend(recorded);
                }
                answers
            }
        })
        .await;
    let mut all: Vec<_> = answers.into_iter().flatten().collect();
    all.sort_by_key(crate::RecordedEvent::version);
    store.same(versions(&all), (1..=16 * 8).collect(), "versions of all");
    store.holds(&stream, &all).await;
}

/// Of many writers that create one stream concurrently, one succeeds; the rest get a conflict and store no event.
pub async fn one_writer_creates_the_stream<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("one_writer_creates_the_stream", store);
    for expected in [ExpectedVersion::NoStream, ExpectedVersion::Exact(Version::NONE)] {
        assert_one_winner(&store, 0, expected).await;
    }
}

/// Of many writers that append at one version concurrently, one succeeds; the rest get a conflict and store no event.
pub async fn one_writer_appends_at_a_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("one_writer_appends_at_a_version", store);
    for before in [1, 5] {
        assert_one_winner(&store, before, ExpectedVersion::Exact(before.into())).await;
    }
}

async fn assert_one_winner<S: EventStore>(store: &StoreUnderTest<S>, before: u64, expected: ExpectedVersion) {
    let stream = stream();
    let given = events(before as usize);
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    let answers = store
        .at_once(16, |_| {
            let (store, stream) = (store.clone(), stream.clone());
            async move { store.append(&stream, expected, events(2)).await }
        })
        .await;
    let mut winners = 0;
    for answer in answers {
        match answer {
            Ok(recorded) => {
                winners += 1;
                all.extend(recorded);
            }
            Err(AppendError::Conflict { actual, .. }) => {
                store.same(actual.get(), before + 2, "the conflict names another version");
            }
            Err(other) => store.fail(format_args!("no conflict but {other:?}")),
        }
    }
    store.same(winners, 1, "number of writers that won");
    store.holds(&stream, &all).await;
}

/// A reader sees all events of an append or none.
pub async fn readers_never_see_half_an_append<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("readers_never_see_half_an_append", store);
    let stream = stream();
    let writer = tokio::spawn({
        let (store, stream) = (store.clone(), stream.clone());
        async move {
            for _ in 0..200 {
                store.add(&stream, ExpectedVersion::Any, &events(3)).await;
            }
        }
    });
    while !writer.is_finished() {
        let version = store.ok(store.stream_version(&stream).await, "asking for the version");
        store.same(version.get() % 3, 0, "events of half an append");
        tokio::task::yield_now().await;
    }
    store.ok(writer.await, "the writer");
    store.same(versions(&store.read(&stream).await), (1..=600).collect(), "versions at the end");
}

/// Failing appends do not affect concurrent ones, in the same stream or in different streams.
pub async fn failing_appends_harm_no_other<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("failing_appends_harm_no_other", store);
    let (hot, used) = (stream(), stream());
    let mut known = store.add(&used, ExpectedVersion::NoStream, &events(1)).await;
    known.extend(store.add(&hot, ExpectedVersion::NoStream, &events(1)).await);
    let known_id = known[1].metadata().event_id();
    let broken = NewEvent::new(Name::from_static("Broken"), 1, "{");
    let answers = store
        .at_once(60, |i| {
            let (store, hot, used, broken) = (store.clone(), hot.clone(), used.clone(), broken.clone());
            async move {
                let any = ExpectedVersion::Any;
                let error = match i % 6 {
                    0 => return store.add(&hot, any, &events(2)).await,
                    1 => {
                        return store.add(&stream(), ExpectedVersion::NoStream, &events(1)).await;
                    }
                    2 => return store.add(&stream(), any, &events(3)).await,
                    3 => store.refused(&used, ExpectedVersion::NoStream, &events(2)).await,
                    4 => store.refused(&hot, any, &[event(), broken]).await,
                    _ => {
                        let known = event().with_event_id(known_id);
                        store.refused(&hot, any, &[event(), known]).await
                    }
                };
                let right = matches!(
                    (i % 6, &error),
                    (3, AppendError::Conflict { .. })
                        | (4, AppendError::Refused { .. })
                        | (5, AppendError::EventIdTaken { .. })
                );
                store.check(right, format_args!("append {i} failed with {error:?}"));
                Vec::new()
            }
        })
        .await;
    let mut feed = store.feed(crate::Position::START).await;
    let mut all: Vec<_> = answers.into_iter().flatten().chain(known).collect();
    all.sort_by_key(crate::RecordedEvent::position);
    feed.sort_by_key(crate::RecordedEvent::position);
    store.same(feed, all, "the store holds other events than were accepted");
    store.same(versions(&store.read(&hot).await), (1..=21).collect(), "versions of the shared stream");
}
