//! Rows of foreign writers that are no events: a typed error that names the place, after the sound events.

use std::{ops::ControlFlow, thread, time::Duration};

use crate::common::{TestSchema, add, event, open, run, stream};
use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{
        AppendError, AppendEvents as _, Direction, FeedFilter, ReadError, ReadFeed as _, ReadStream as _, RecordStream,
    },
    store::{VisitedEvent, VisitedFeedEvent},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use futures_util::StreamExt as _;

/// Three events at positions 1 to 3, of which the second was changed by SQL.
struct Tampered {
    store: PgEventStore,
    stream: StreamId,
    events: Vec<RecordedEvent>,
    _schema: TestSchema,
}

async fn tampered(set: &str) -> Tampered {
    let schema = TestSchema::new();
    let (store, stream) = (open(schema.config()).await, stream());
    let events = add(&store, &stream, 3).await;
    let sql = format!("UPDATE events SET {set} WHERE position = 2");
    run(&mut schema.connection().await, &sql).await;
    Tampered { store, stream, events, _schema: schema }
}

/// Reads up to the error, which must be the last item, and returns the events before it and the place it names.
async fn broken_off(mut records: RecordStream<'_>) -> (Vec<RecordedEvent>, String) {
    let mut sound = Vec::new();
    while let Some(record) = records.next().await {
        match record {
            Ok(record) => sound.push(record),
            Err(ReadError::Corrupt { place, source, .. }) => {
                assert!(!source.to_string().is_empty());
                assert!(records.next().await.is_none(), "the stream goes on after the error");
                return (sound, place);
            }
            Err(other) => panic!("not corrupt but {other:?}"),
        }
    }
    panic!("the stream ended without an error after {} events", sound.len());
}

/// Checks that the feed names position 2, after the sound event.
async fn feed_breaks_off(set: &str) {
    let it = tampered(set).await;
    let (sound, place) = broken_off(it.store.read_all(Position::START)).await;
    assert_eq!(sound, it.events[..1], "{set}");
    assert_eq!(place, "position 2", "{set}");
    let (sound, place) = broken_off(it.store.read_all(Position::new(1))).await;
    assert_eq!((sound.len(), &*place), (0, "position 2"), "{set}");
    let mut rest = it.store.read_all(Position::new(2));
    if set.starts_with("version") {
        let (sound, place) = broken_off(rest).await;
        assert_eq!((sound.len(), place), (0, format!("event 2 of stream `{}`", it.stream)), "no event has version 2");
    } else {
        // a reader that skips it continues
        assert_eq!(rest.next().await.unwrap().unwrap(), it.events[2], "{set}");
    }
}

#[tokio::test]
async fn names_that_are_none_are_corrupt() {
    for set in ["event_type = ''", "event_type = E'a\\nb'", "event_type = repeat('x', 256)"] {
        feed_breaks_off(set).await;
    }
    for set in ["aggregate_id = ''", "aggregate_id = E'a\\x01b'", "aggregate_type = E'\\t'"] {
        let it = tampered("payload = '{}'").await;
        run(&mut it._schema.connection().await, &format!("UPDATE streams SET {set}")).await;
        let (sound, place) = broken_off(it.store.read_all(Position::START)).await;
        assert_eq!((sound.len(), &*place), (0, "position 1"), "{set}");
    }
}

#[tokio::test]
async fn numbers_and_times_out_of_range_are_corrupt() {
    for set in [
        "version = 0",
        "version = -7",
        "schema_version = 0",
        "schema_version = -1",
        "occurred_at = 'infinity'",
        "occurred_at = '-infinity'",
        "occurred_at = '20000-01-01'",
    ] {
        feed_breaks_off(set).await;
    }
}

#[tokio::test]
async fn payloads_and_attributes_that_are_no_objects_are_corrupt() {
    for set in ["payload = '[1]'", "payload = 'null'", "payload = ' \"{}\"'", "attributes = '[1]'", "attributes = '7'"]
    {
        feed_breaks_off(set).await;
    }
}

#[tokio::test]
async fn a_position_out_of_range_is_corrupt() {
    let it = tampered("position = -5").await;
    let (sound, place) = broken_off(it.store.read_stream(&it.stream, Version::FIRST, Direction::Forward)).await;
    assert_eq!((sound, &*place), (it.events[..1].to_vec(), "position -5"));
}

#[tokio::test]
async fn a_stream_breaks_off_in_both_directions() {
    let it = tampered("event_type = ''").await;
    let forward = it.store.read_stream(&it.stream, Version::FIRST, Direction::Forward);
    assert_eq!(broken_off(forward).await, (it.events[..1].to_vec(), "position 2".into()));
    let backward = it.store.read_stream(&it.stream, Version::MAX, Direction::Backward);
    assert_eq!(broken_off(backward).await, (it.events[2..].to_vec(), "position 2".into()));
    let it = tampered("version = 0").await;
    let backward = it.store.read_stream(&it.stream, Version::MAX, Direction::Backward);
    let (sound, place) = broken_off(backward).await;
    assert_eq!((sound, place), (it.events[2..].to_vec(), format!("event 2 of stream `{}`", it.stream)));
}

#[tokio::test]
async fn a_stream_with_a_gap_breaks_off_there() {
    let schema = TestSchema::new();
    let (store, stream) = (open(schema.config()).await, stream());
    let events = add(&store, &stream, 2_500).await;
    for missing in [1_700, 1_001, 1_000, 1] {
        let sql = format!("DELETE FROM events WHERE version = {missing}");
        run(&mut schema.connection().await, &sql).await;
        let place = format!("event {missing} of stream `{stream}`");
        let forward = store.read_stream(&stream, Version::FIRST, Direction::Forward);
        assert_eq!(broken_off(forward).await, (events[..missing - 1].to_vec(), place));
        let backward = store.read_stream(&stream, Version::MAX, Direction::Backward);
        let (sound, place) = broken_off(backward).await;
        assert_eq!((sound.len(), place), (800, format!("event 1700 of stream `{stream}`")));
    }
}

#[tokio::test]
async fn what_is_sound_on_a_long_page_is_read_first() {
    let schema = TestSchema::new();
    let (store, stream) = (open(schema.config()).await, stream());
    add(&store, &stream, 2_500).await;
    let sql = "UPDATE events SET payload = '1' WHERE position = 1700";
    run(&mut schema.connection().await, sql).await;
    let (sound, place) = broken_off(store.read_all(Position::START)).await;
    assert_eq!((sound.len(), &*place), (1_699, "position 1700"));
    let forward = store.read_stream(&stream, Version::FIRST, Direction::Forward);
    assert_eq!(broken_off(forward).await.0.len(), 1_699);
    let backward = store.read_stream(&stream, Version::MAX, Direction::Backward);
    assert_eq!(broken_off(backward).await.0.len(), 800);
}

#[tokio::test]
async fn a_stream_at_a_version_below_zero_is_corrupt() {
    let it = tampered("payload = '{}'").await;
    run(&mut it._schema.connection().await, "UPDATE streams SET version = -1").await;
    match it.store.stream_version(&it.stream).await {
        Err(ReadError::Corrupt { place, .. }) => {
            assert_eq!(place, format!("stream `{}`", it.stream))
        }
        other => panic!("{other:?}"),
    }
    let again = event().with_event_id(it.events[1].metadata().event_id());
    let again = it.store.append(&it.stream, ExpectedVersion::NoStream, vec![again]).await;
    assert!(matches!(again, Err(AppendError::Refused { .. })), "{again:?}");
}

#[tokio::test]
async fn a_repeat_of_a_corrupt_event_is_refused() {
    let it = tampered("event_type = ''").await;
    let again = event().with_event_id(it.events[1].metadata().event_id());
    let again = it.store.append(&it.stream, ExpectedVersion::Any, vec![again]).await;
    assert!(matches!(again, Err(AppendError::Refused { .. })), "{again:?}");
}

/// The row is what names the stream: the events without it belong to no stream.
#[tokio::test]
async fn the_feed_breaks_off_at_an_event_whose_stream_lost_its_row() {
    let it = tampered("payload = '{}'").await;
    run(&mut it._schema.connection().await, "DELETE FROM streams").await;
    it.store.append(&it.stream, ExpectedVersion::Any, vec![event()]).await.unwrap();
    let (sound, place) = broken_off(it.store.read_all(Position::START)).await;
    assert_eq!((sound.len(), &*place), (0, "position 1"));
}

/// A row that the server itself cannot read, as its block is damaged, fails each page that begins with it.
#[tokio::test]
async fn an_event_whose_row_the_server_cannot_read_is_named_and_may_be_skipped() {
    let it = tampered("payload = '{}'").await;
    let damage = "CREATE FUNCTION read_damaged(payload json) RETURNS json LANGUAGE plpgsql STABLE AS $$ BEGIN
            RAISE 'invalid page in block 0' USING ERRCODE = 'data_corrupted';
        END $$;
        ALTER TABLE events RENAME TO sound_events;
        CREATE VIEW events AS SELECT position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id,
            schema_version, has_sealed_fields, event_type, causation_id, actor_id, attributes, original_recorded_at, tags,
            CASE position WHEN 2 THEN read_damaged(payload) ELSE payload END AS payload
        FROM sound_events";
    run(&mut it._schema.connection().await, damage).await;
    for after in [0_usize, 1] {
        let (sound, place) = broken_off(it.store.read_all(Position::new(after as u64))).await;
        assert_eq!((&*sound, &*place), (&it.events[after..1], "position 2"));
    }
    let mut rest = it.store.read_all(Position::new(2));
    assert_eq!(rest.next().await.unwrap().unwrap(), it.events[2], "a reader that skips it continues");
    let (visited, error) = visit_feed(&it.store, &it.stream).await;
    assert_eq!(visited, [1]);
    assert!(matches!(error, Err(ReadError::Corrupt { position: Some(at), .. }) if at == Position::new(2)));
    let stream = format!("stream `{}`", it.stream);
    let forward = it.store.read_stream(&it.stream, Version::FIRST, Direction::Forward);
    assert_eq!(broken_off(forward).await.1, stream);
    assert_eq!(visit_breaks_off(&it.store, &it.stream).await.1, stream);
    let positions = [2, 3].map(Position::new);
    match &*it.store.read_events_at(&positions).await {
        [Err(ReadError::Corrupt { position: Some(at), .. })] if *at == positions[0] => {}
        other => panic!("{other:?}"),
    }
}

/// Visits a stream up to the error, and returns the number of events before it and the place that it names.
async fn visit_breaks_off(store: &PgEventStore, stream: &StreamId) -> (u64, String) {
    let mut visited = 0_u64;
    let mut count = |event: VisitedEvent<'_>| {
        visited += 1;
        assert_eq!(event.version, visited);
        ControlFlow::Continue(())
    };
    match store.visit_stream(stream, Version::FIRST, &mut count).await {
        Err(ReadError::Corrupt { place, .. }) => (visited, place),
        other => panic!("not corrupt but {other:?}"),
    }
}

/// A visit reads fewer columns, and names a damaged one as a read does.
#[tokio::test]
async fn a_visit_names_the_damage_that_it_meets() {
    let damages = ["event_type = ''", "schema_version = 0", "schema_version = -1", "payload = '[]'", "payload = '1'"];
    for set in damages {
        let it = tampered(set).await;
        assert_eq!(visit_breaks_off(&it.store, &it.stream).await, (1, "position 2".into()), "{set}");
    }
    let it = tampered("version = 9").await;
    let missing = format!("event 2 of stream `{}`", it.stream);
    assert_eq!(visit_breaks_off(&it.store, &it.stream).await, (1, missing));
    for set in damages {
        let it = tampered(set).await;
        let (visited, error) = visit_feed(&it.store, &it.stream).await;
        assert_eq!(visited, [1], "{set}");
        assert!(matches!(error, Err(ReadError::Corrupt { place, .. }) if place == "position 2"), "{set}");
    }
}

/// Visits the part of the feed with the type of a stream, and returns the positions.
async fn visit_feed(store: &PgEventStore, stream: &StreamId) -> (Vec<u64>, Result<(), ReadError>) {
    let filter = FeedFilter::all().aggregate_types([stream.aggregate_type().clone()]);
    let mut visited = Vec::new();
    let mut push = |event: VisitedFeedEvent<'_>| {
        visited.push(event.position.get());
        ControlFlow::Continue(())
    };
    let head = store.head().await.unwrap();
    let ended = store.visit_feed(Position::START, head, &filter, &mut push).await;
    (visited, ended)
}

#[tokio::test]
async fn a_visit_of_many_statements_leaves_out_no_event() {
    let schema = TestSchema::new();
    let (store, stream) = (schema.store().await, stream());
    add(&store, &stream, 10_000).await;
    add(&store, &stream, 10_002).await;
    let mut visited = 0_u64;
    let mut count = |event: VisitedEvent<'_>| {
        visited += 1;
        assert_eq!(event.version, visited);
        ControlFlow::Continue(())
    };
    store.visit_stream(&stream, Version::FIRST, &mut count).await.unwrap();
    assert_eq!(visited, 20_002);
    run(&mut schema.connection().await, "DELETE FROM events WHERE version = 20001").await;
    let (of_feed, ended) = visit_feed(&store, &stream).await;
    ended.unwrap();
    assert_eq!(of_feed, (1..=20_002).filter(|position| *position != 20_001).collect::<Vec<_>>());
    let missing = format!("event 20001 of stream `{stream}`");
    assert_eq!(visit_breaks_off(&store, &stream).await, (20_000, missing));
}

/// The visitor is so slow that the server ends the statement, which sends more than fits between the two.
#[tokio::test]
async fn a_visit_that_takes_longer_than_a_statement_goes_on_in_pages() {
    const LIMIT: Duration = Duration::from_secs(1);
    const EVENTS: u64 = 400;
    let schema = TestSchema::new();
    let store = open(PgEventStoreConfig { statement_timeout: LIMIT, ..schema.config() }).await;
    let stream = stream();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000));
    for _ in 0..EVENTS / 50 {
        let events = (0..50).map(|_| NewEvent::new(Name::from_static("Noted"), 1, payload.clone()));
        store.append(&stream, ExpectedVersion::Any, events.collect()).await.unwrap();
    }
    let mut visited = 0_u64;
    let mut count = |event: VisitedEvent<'_>| {
        visited += 1;
        assert_eq!(event.version, visited);
        if visited == 1 {
            thread::sleep(LIMIT.mul_f64(1.5)); // the work of the visitor
        }
        ControlFlow::Continue(())
    };
    store.visit_stream(&stream, Version::FIRST, &mut count).await.unwrap();
    assert_eq!(visited, EVENTS);

    // of the feed the rows of a stream that is not known yet wait, a megabyte of them; the others arrive as they are visited
    for slow_at in [None, Some(30), Some(60)] {
        let filter = FeedFilter::all().aggregate_types([stream.aggregate_type().clone()]);
        let mut positions = Vec::new();
        let mut push = |event: VisitedFeedEvent<'_>| {
            positions.push(event.position.get());
            if slow_at == Some(positions.len()) {
                thread::sleep(LIMIT.mul_f64(1.5));
            }
            ControlFlow::Continue(())
        };
        store.visit_feed(Position::START, store.head().await.unwrap(), &filter, &mut push).await.unwrap();
        assert_eq!(positions, (1..=EVENTS).collect::<Vec<_>>(), "{slow_at:?}");
    }

    // one that breaks off does not see the statement fail, and is not called again
    let mut visited = 0;
    let mut break_off = |_: VisitedEvent<'_>| {
        visited += 1;
        thread::sleep(LIMIT.mul_f64(1.5));
        ControlFlow::Break(())
    };
    store.visit_stream(&stream, Version::FIRST, &mut break_off).await.unwrap();
    assert_eq!(visited, 1);
}
