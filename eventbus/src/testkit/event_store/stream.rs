//! Reading one stream.

use std::ops::ControlFlow;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::store_under_test::{StoreUnderTest, copied, events, stream, versions};
use crate::{
    ExpectedVersion, Name, NewEvent, RecordedEvent, Version,
    port::{Direction, EventStore},
    store::VisitedEvent,
};

/// Reading forward starts at the given version, itself included, and ends with the stream.
pub async fn reads_forward_from_a_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("reads_forward_from_a_version", store);
    let (stream, other) = (stream(), stream());
    store.add(&other, ExpectedVersion::NoStream, &events(9)).await;
    let all = store.add(&stream, ExpectedVersion::NoStream, &events(5)).await;
    for (from, wanted) in [
        (Version::NONE, &all[..]),
        (Version::FIRST, &all[..]),
        (3.into(), &all[2..]),
        (5.into(), &all[4..]),
        (6.into(), &[]),
        (Version::MAX, &[]),
        (u64::MAX.into(), &[]),
    ] {
        let read = store.read_from(&stream, from, Direction::Forward).await;
        store.same(&*read, wanted, format_args!("forward from {from}"));
    }
}

/// Reading backward starts at the given version, itself included, or at the end, and ends with the first event.
pub async fn reads_backward_from_a_version<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("reads_backward_from_a_version", store);
    let (stream, other) = (stream(), stream());
    store.add(&other, ExpectedVersion::NoStream, &events(9)).await;
    let mut all = store.add(&stream, ExpectedVersion::NoStream, &events(5)).await;
    all.reverse();
    for (from, wanted) in [
        (Version::NONE, &[][..]),
        (Version::FIRST, &all[4..]),
        (3.into(), &all[2..]),
        (5.into(), &all[..]),
        (6.into(), &all[..]),
        (Version::MAX, &all[..]),
        (u64::MAX.into(), &all[..]),
    ] {
        let read = store.read_from(&stream, from, Direction::Backward).await;
        store.same(&*read, wanted, format_args!("backward from {from}"));
    }
}

/// A stream without events is empty and at version 0, not an error.
pub async fn missing_stream_is_empty<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("missing_stream_is_empty", store);
    let stream = stream();
    store.holds(&stream, &[]).await;
    for direction in [Direction::Forward, Direction::Backward] {
        for from in [Version::NONE, Version::FIRST, Version::MAX] {
            let read = store.read_from(&stream, from, direction).await;
            store.same(read, Vec::new(), format_args!("{direction:?} from {from}"));
        }
    }
}

/// A stream of many pages is read whole, in both directions, from any version and to any length.
pub async fn long_streams_are_read_whole<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("long_streams_are_read_whole", store);
    let (stream, other) = (stream(), stream());
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(store.add(&stream, ExpectedVersion::Any, &events(500)).await);
        store.add(&other, ExpectedVersion::Any, &events(1)).await;
    }
    store.holds(&stream, &all).await;
    let read = store.read_from(&stream, 1_001.into(), Direction::Forward).await;
    store.same(&*read, &all[1_000..], "forward from the middle");
    let few = store.read_stream(&stream, 999.into(), Direction::Forward);
    let few: Vec<_> = store.ok(few.take(3).try_collect().await, "reading three events");
    store.same(&*few, &all[998..1_001], "three events from the middle");
    all.reverse();
    let read = store.read_from(&stream, Version::MAX, Direction::Backward).await;
    store.same(&*read, &*all, "backward from the end");
}

/// A visit shows what a read does, from any version, and ends where the visitor breaks off.
pub async fn visits_show_what_reads_do<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("visits_show_what_reads_do", store);
    let (stream, other) = (stream(), stream());
    let odd = NewEvent::new(Name::from_static("Тип \"x\""), 7, r#" {"text": "é\u0041", "n": 1.50} "#);
    let given: Vec<_> = events(1_200).into_iter().chain([odd]).collect();
    store.add(&other, ExpectedVersion::NoStream, &events(3)).await;
    let all = store.add(&stream, ExpectedVersion::NoStream, &given).await;
    let visit = async |from: Version, limit: usize| {
        let mut seen = Vec::new();
        let mut push = |event: VisitedEvent<'_>| {
            seen.push((event.version, event.event_id, copied(event.fields)));
            if seen.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let visited = store.visit_stream(&stream, from, &mut push).await;
        store.ok(visited, format_args!("a visit from {from}"));
        seen
    };
    let shown = |record: &RecordedEvent| (record.version(), record.metadata().event_id(), copied(record.fields()));
    let all: Vec<_> = all.iter().map(shown).collect();
    let reads =
        [(0, 0), (1, 0), (2, 1), (1_000, 999), (1_200, 1_199), (1_201, 1_200), (1_202, 1_201), (u64::MAX, 1_201)];
    for (from, first) in reads {
        store.same(visit(from.into(), usize::MAX).await, all[first..].to_vec(), format_args!("visited from {from}"));
    }
    store.same(visit(Version::FIRST, 1).await, all[..1].to_vec(), "a visit that breaks off at once");
    store.same(visit(999.into(), 3).await, all[998..1_001].to_vec(), "three events");
}

/// A reader paused in the middle blocks no writer, and continues where it was.
pub async fn open_read_holds_up_no_writer<S: EventStore>(store: S) {
    let store = StoreUnderTest::new("open_read_holds_up_no_writer", store);
    let stream = stream();
    for _ in 0..3 {
        store.add(&stream, ExpectedVersion::Any, &events(500)).await;
    }
    let mut open = store.read_stream(&stream, Version::FIRST, Direction::Forward);
    let mut read = vec![store.ok(open.next().await.transpose(), "the first event")];
    let append = store.append(&stream, ExpectedVersion::Exact(1_500.into()), events(3));
    let appended = store.within("append beside an open read", append).await;
    store.ok(appended, "append beside an open read");
    let rest: Vec<_> = store.ok(open.try_collect().await, "the rest");
    read.extend(rest.into_iter().map(Some));
    let read: Vec<_> = read.into_iter().flatten().collect();
    store.check(read.len() >= 1_500, format_args!("the reader saw {} of 1,500 events", read.len()));
    store.same(versions(&read), (1..=read.len() as u64).collect(), "versions as read");
}
