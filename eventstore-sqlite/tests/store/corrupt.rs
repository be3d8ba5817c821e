//! Damaged rows, and rows of foreign writers, are errors that name their place, never events.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::common::{events, fresh_path, fresh_stream, open, read};
use eventbus::{
    BoxError, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    health::HealthThresholds,
    port::{
        AppendError, AppendEvents as _, Checkpoints as _, Direction, FeedFilter, ReadError, ReadFeed as _,
        ReadStream as _,
    },
    prelude::*,
    projection::ProjectionError,
    store::{VisitedEvent, VisitedFeedEvent},
};
use eventstore_sqlite::{SqliteEventStore, SqliteTransaction};
use futures_util::TryStreamExt as _;

/// A store with three events, changed by raw SQL before it is opened again.
async fn damaged(sql: &str) -> (SqliteEventStore, StreamId, Vec<NewEvent>) {
    let (path, stream, given) = (fresh_path(), fresh_stream(), events(3));
    let store = open(path.clone()).await;
    store.append(&stream, ExpectedVersion::NoStream, given.clone()).await.unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    (store, stream, given)
}

async fn feed_fault(store: &SqliteEventStore) -> (String, String) {
    let all: Result<Vec<RecordedEvent>, _> = store.read_all(Position::START).try_collect().await;
    place(all.unwrap_err())
}

fn place(error: ReadError) -> (String, String) {
    match error {
        ReadError::Corrupt { place, source, .. } => (place, source.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn damaged_columns_are_named() {
    for (change, said) in [
        ("event_id = x'0102'", "column `event_id`"),
        ("correlation_id = x''", "column `correlation_id`"),
        ("causation_id = x'01'", "column `causation_id`"),
        ("version = -2", "column `version`"),
        ("version = 0", "versions start at 1"),
        ("schema_version = -1", "out of range"),
        ("schema_version = 0", "schema versions start at 1"),
        ("occurred_at = 9223372036854775807", "in range"),
        ("event_type = ''", "invalid event type"),
        ("event_type = cast(x'ff' AS TEXT)", "column `event_type`"),
        ("payload = cast(x'ff' AS TEXT)", "column `payload`"),
        ("payload = '[1]'", "not a JSON object"),
        ("payload = ''", "not a JSON object"),
        ("actor_id = cast(x'ff' AS TEXT)", "column `actor_id`"),
        ("attributes = '[1]'", "not a JSON object"),
    ] {
        let (store, ..) = damaged(&format!("UPDATE eventbus_events SET {change} WHERE version = 2")).await;
        let (place, source) = feed_fault(&store).await;
        assert_eq!(place, "position 2", "{change}");
        assert!(source.contains(said), "{change}: {source}");
    }
    for (change, said) in [
        ("tenant_id = zeroblob(17)", "column `tenant_id`"),
        ("aggregate_id = ''", "invalid aggregate id"),
        ("aggregate_type = char(10)", "invalid aggregate type"),
        ("stream_no = 7", "column `aggregate_type`"),
    ] {
        let (store, ..) = damaged(&format!("UPDATE eventbus_streams SET {change}")).await;
        let (place, source) = feed_fault(&store).await;
        assert_eq!(place, "position 1", "{change}");
        assert!(source.contains(said), "{change}: {source}");
    }
}

#[derive(Default)]
struct InMemory(u64);

#[projection(name = "in-memory", manual)]
impl InMemory {
    fn any(&mut self, _event: &RecordedEvent) {
        self.0 += 1;
    }
}

#[derive(Default)]
struct Elsewhere(AtomicU64);

#[projection(name = "elsewhere", manual)]
impl Elsewhere {
    fn any(&self, _event: &RecordedEvent) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn projections_stop_before_a_damaged_row_and_go_on_behind_it_when_an_operator_skips_it() {
    let (store, ..) = damaged("UPDATE eventbus_events SET event_type = '' WHERE version = 2").await;
    let app = App::builder().store(store).projection_with(InMemory::default).projection_with(Elsewhere::default);
    let app = app.start().await.unwrap();
    let stopped = async {
        while !app.projections().await.unwrap().iter().all(|status| status.stopped.is_some()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stopped).await.expect("they stop");
    for status in app.projections().await.unwrap() {
        let Some(ProjectionError::Damaged { position, error, .. }) = status.stopped else { panic!("{status:?}") };
        assert!(position == 2 && error.contains("position 2"), "{position}: {error}");
    }
    let (damaged, last) = (Position::new(2), Position::new(3));
    assert!(app.skip_event::<InMemory>(damaged, "damaged").await.unwrap());
    assert!(app.skip_event::<Elsewhere>(damaged, "damaged").await.unwrap());
    assert_eq!(app.projected::<InMemory>(last).await.unwrap().0, 2);
    assert_eq!(app.projected::<Elsewhere>(last).await.unwrap().0.load(Ordering::SeqCst), 2);
}

struct Rows;

#[projection(name = "rows", manual, tables("seen"), key = "id")]
impl Rows {
    async fn any(&self, event: &RecordedEvent, tx: &mut SqliteTransaction) -> Result<(), BoxError> {
        let id = event.metadata().aggregate_id().as_str();
        tx.execute("INSERT INTO seen VALUES (?1, ?2)", (id, event.version().get().cast_signed()))?;
        Ok(())
    }
}

/// A rebuild of an aggregate's rows leaves out skipped damage, and stops at damage that is not skipped.
#[tokio::test]
async fn the_rows_of_an_aggregate_are_made_anew_without_the_damaged_event_that_was_skipped() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let store = open(path.clone()).await;
    // its versions 1 to 5 are at 1, 2, 3, 5 and 6
    for (stream, count) in [(&stream, 3), (&fresh_stream(), 1), (&stream, 2)] {
        store.append(stream, ExpectedVersion::Any, events(count)).await.unwrap();
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE seen (id TEXT, version INTEGER)").unwrap();
    let damage = |place: &str| {
        raw.execute_batch(&format!("UPDATE eventbus_events SET schema_version = -1 WHERE {place}")).unwrap();
    };
    damage("position = 2");
    let app = App::builder().store(store).projection(Rows).start().await.unwrap();
    app.skip_event::<Rows>(Position::new(2), "a torn page").await.unwrap();
    // the projection stops at the damage until it notices the skip
    let passed = async {
        while app.projected::<Rows>(Position::new(6)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), passed).await.expect("it goes on behind the damage");
    let seen = || -> Vec<i64> {
        let mut statement = raw.prepare("SELECT version FROM seen WHERE id = ?1 ORDER BY version").unwrap();
        let id = stream.aggregate_id().as_str();
        statement.query_map([id], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    raw.execute_batch("UPDATE seen SET version = 9").unwrap();
    let rebuilt = app.rebuild_aggregate::<Rows>(&stream).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped, rebuilt.position), (4, 1, Position::new(6)));
    assert_eq!(seen(), [1, 3, 4, 5]);

    // later damage, which is not skipped, although a different event may be
    damage("position = 5");
    let refused = app.rebuild_aggregate::<Rows>(&stream).await.unwrap_err();
    let said = format!("{refused} {:?}", std::error::Error::source(&refused).map(ToString::to_string));
    assert!(said.contains("position 5"), "{said}");
    assert_eq!(seen(), [1, 3, 4, 5], "the rows stay as they were");
    app.skip_event::<Rows>(Position::new(4), "a row of another aggregate").await.unwrap();
    app.rebuild_aggregate::<Rows>(&stream).await.unwrap_err();
    damage("position = 4");
    app.rebuild_aggregate::<Rows>(&stream).await.unwrap_err();
    app.skip_event::<Rows>(Position::new(5), "a torn page").await.unwrap();
    let rebuilt = app.rebuild_aggregate::<Rows>(&stream).await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (3, 2));
    assert_eq!(seen(), [1, 3, 5]);

    // no operator has skipped the removed row, only rows beside it
    raw.execute_batch("DELETE FROM eventbus_events WHERE position = 3").unwrap();
    let refused = app.rebuild_aggregate::<Rows>(&stream).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(seen(), [1, 3, 5]);
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Shipped {
    to: String,
}

/// The handled positions.
#[derive(Debug, Clone, Default)]
struct Got(Arc<Mutex<Vec<u64>>>);

#[handler(manual)]
async fn ship(_event: &Shipped, meta: &Metadata, State(got): State<Got>) {
    got.0.lock().unwrap().push(meta.position().map_or(0, Position::get));
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// The type and the aggregate of a damaged event may be unknown, so handlers do not pass it by themselves.
#[tokio::test]
async fn handlers_stop_before_a_damaged_row_and_go_on_when_it_is_skipped_or_mended() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    for order in ["1", "2", "3", "4"] {
        let stream = StreamId::parse("Order", order).unwrap();
        let event = NewEvent::from_event(&Shipped { to: "paris".into() }).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    drop(store);
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("UPDATE eventbus_events SET payload = '[' WHERE position IN (2, 4)").unwrap();
    let got = Got::default();
    let start = async || {
        let builder = App::builder().store(open(path.clone()).await).state(got.clone());
        builder.handler::<ship>().start().await.unwrap()
    };
    let alerts = async |app: &App| app.health().await.alerts(&HealthThresholds::default()).join("; ");
    let app = start().await;
    until("the damage is an alert", async || alerts(&app).await.contains("position 2")).await;
    let alert = alerts(&app).await;
    assert!(alert.contains("handlers wait, the feed cannot be read") && !alert.contains("paris"), "{alert}");
    assert!(alert.contains("app.skip_published_event"), "{alert}");
    until("the event before it is handled", async || *got.0.lock().unwrap() == [1]).await;

    assert!(app.skip_published_event(Position::new(2), "a torn page").await.unwrap());
    until("the next damage is an alert", async || alerts(&app).await.contains("position 4")).await;
    until("the event between is handled", async || *got.0.lock().unwrap() == [1, 3]).await;

    app.shutdown(Duration::from_secs(30)).await.unwrap();
    let app = start().await;
    until("the damage is an alert again", async || alerts(&app).await.contains("position 4")).await;
    raw.execute_batch(r#"UPDATE eventbus_events SET payload = '{"to":"oslo"}' WHERE position = 4"#).unwrap();
    app.settled().await.unwrap();
    assert_eq!(*got.0.lock().unwrap(), [1, 3, 4]);
    assert_eq!(alerts(&app).await, "");
}

#[tokio::test]
async fn what_stands_before_the_damage_is_read() {
    let (store, stream, _) = damaged("UPDATE eventbus_events SET event_type = '' WHERE version = 3").await;
    for mut events in [store.read_all(Position::START), store.read_stream(&stream, Version::FIRST, Direction::Forward)]
    {
        for version in 1..=2_u64 {
            let event = events.try_next().await.unwrap().unwrap();
            assert_eq!(event.version(), Version::new(version));
        }
        assert_eq!(place(events.try_next().await.unwrap_err()).0, "position 3");
    }
    let (store, stream, _) = damaged("UPDATE eventbus_events SET event_type = '' WHERE version = 1").await;
    let mut events = store.read_stream(&stream, Version::MAX, Direction::Backward);
    for version in [3, 2_u64] {
        let event = events.try_next().await.unwrap().unwrap();
        assert_eq!(event.version(), Version::new(version));
    }
    assert_eq!(place(events.try_next().await.unwrap_err()).0, "position 1");
}

/// Fails if the events before the failure count as the whole page.
#[tokio::test]
async fn a_statement_that_fails_between_two_rows_fails_the_page() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let store = open(path.clone()).await;
    // so large that each row has a page of the file to itself
    let payload = |digit: &str| format!(r#"{{"text":"{}"}}"#, digit.repeat(3_000));
    let large = ["1", "2", "3"].map(|digit| NewEvent::new(Name::from_static("Noted"), 1, payload(digit)));
    store.append(&stream, ExpectedVersion::NoStream, large.into()).await.unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let page_size = raw.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0)).unwrap();
    let mut file = std::fs::read(&path).unwrap();
    let mut pages = file.chunks_mut(page_size as usize);
    let second = pages.find(|page| page.windows(3_000).any(|text| text == [b'2'; 3_000])).unwrap();
    second[..100].fill(0xff);
    std::fs::write(&path, file).unwrap();

    let of_type = FeedFilter::all().event_types([Name::from_static("Noted")]);
    for mut events in [
        store.read_all(Position::START),
        store.read_feed(Position::START, Position::new(3), &of_type),
        store.read_stream(&stream, Version::FIRST, Direction::Forward),
        store.read_stream(&stream, Version::MAX, Direction::Backward),
    ] {
        assert_eq!(place(events.try_next().await.unwrap_err()).0, "the database file");
    }
}

#[tokio::test]
async fn a_negative_position_is_damage() {
    let (store, stream, _) = damaged("UPDATE eventbus_events SET position = -5 WHERE version = 2").await;
    let all = store.read_stream(&stream, Version::FIRST, Direction::Forward);
    let (named, _) = place(all.try_collect::<Vec<_>>().await.unwrap_err());
    assert_eq!(named, "position -5");
    let (store, ..) = damaged("UPDATE eventbus_events SET position = -position").await;
    assert_eq!(place(store.head().await.unwrap_err()).0, "position -1");
}

/// A visit reads fewer columns, and names a damaged one as a read does.
#[tokio::test]
async fn a_visit_names_the_damage_that_it_meets() {
    let at_two = ["version = -2", "event_type = ''", "schema_version = 0", "payload = '[1]'", "event_id = x'0102'"];
    for set in at_two {
        let (store, stream, _) = damaged(&format!("UPDATE eventbus_events SET {set} WHERE version = 2")).await;
        let (visited, ended) =
            visit_feed(&store, FeedFilter::all().aggregate_types([stream.aggregate_type().clone()])).await;
        // a visit of the feed reads neither versions nor ids
        match set.starts_with("version") || set.starts_with("event_id") {
            true => assert_eq!((visited, ended.is_ok()), (vec![1, 2, 3], true), "{set}"),
            false => assert_eq!((visited, place(ended.unwrap_err()).0.as_str()), (vec![1], "position 2"), "{set}"),
        }
    }
    let at_two = at_two.map(|set| (format!("UPDATE eventbus_events SET {set} WHERE version = 2"), "position 2"));
    let gone = ("DELETE FROM eventbus_events WHERE version = 2".to_owned(), "event 2 of stream");
    for (sql, wanted) in at_two.into_iter().chain([gone]) {
        let (store, stream, _) = damaged(&sql).await;
        let mut visited = 0_u64;
        let mut count = |event: VisitedEvent<'_>| {
            visited += 1;
            assert_eq!(event.version, visited);
            ControlFlow::Continue(())
        };
        let error = store.visit_stream(&stream, Version::FIRST, &mut count).await.unwrap_err();
        let (named, _) = place(error);
        // a negative version is not in the range that is read: the event is missing
        let wanted = if sql.contains("-2") { "event 2 of stream" } else { wanted };
        assert!(named.starts_with(wanted), "{sql}: {named}");
        assert_eq!(visited, 1, "{sql}");
    }
}

async fn visit_feed(store: &SqliteEventStore, filter: FeedFilter) -> (Vec<u64>, Result<(), ReadError>) {
    let mut visited = Vec::new();
    let mut push = |event: VisitedFeedEvent<'_>| {
        visited.push(event.position.get());
        ControlFlow::Continue(())
    };
    let ended = store.visit_feed(Position::START, store.head().await.unwrap(), &filter, &mut push).await;
    (visited, ended)
}

/// Events without their stream are met first, and in a later chunk.
#[tokio::test]
async fn a_visit_names_an_event_without_its_stream() {
    for lost in [1, 2_500] {
        let (path, stream, other) = (fresh_path(), fresh_stream(), fresh_stream());
        let store = open(path.clone()).await;
        store.append(&stream, ExpectedVersion::NoStream, events(lost - 1)).await.unwrap();
        store.append(&other, ExpectedVersion::NoStream, events(1)).await.unwrap();
        let sql = "UPDATE eventbus_events SET stream_no = 99 WHERE position = ?1";
        rusqlite::Connection::open(&path).unwrap().execute(sql, [lost as i64]).unwrap();
        let (visited, ended) = visit_feed(&store, FeedFilter::all().event_types([Name::from_static("Counted")])).await;
        assert_eq!(visited, (1..lost as u64).collect::<Vec<_>>());
        assert_eq!(place(ended.unwrap_err()).0, format!("position {lost}"));
    }
}

/// Chunks end where they are full, by events or by bytes, and where they have searched enough.
#[tokio::test]
async fn a_visit_of_many_chunks_leaves_out_no_event() {
    let (store, mut stored) = (open(fresh_path()).await, 0);
    let (small, large) = ("{}".to_owned(), format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000)));
    for (events, event_type, payload) in [
        (3_000, "Noted", &small),
        (20_000, "Common", &small),
        (100, "Noted", &large),
        (9_000, "Common", &small),
        (1, "Noted", &small),
    ] {
        let new_event = |_| NewEvent::new(Name::from_static(event_type), 1, payload.clone());
        store.append(&fresh_stream(), ExpectedVersion::NoStream, (0..events).map(new_event).collect()).await.unwrap();
        stored += events;
    }
    let (visited, ended) = visit_feed(&store, FeedFilter::all().event_types([Name::from_static("Noted")])).await;
    ended.unwrap();
    assert_eq!(visited, (1..=3_000).chain(23_001..=23_100).chain([stored]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_hole_in_a_stream_is_damage_both_ways() {
    for (version, from, direction) in [
        (2, Version::FIRST, Direction::Forward),
        (1, Version::FIRST, Direction::Forward),
        (1, Version::NONE, Direction::Forward),
        (2, Version::MAX, Direction::Backward),
        (1, Version::MAX, Direction::Backward),
    ] {
        let sql = format!("DELETE FROM eventbus_events WHERE version = {version}");
        let (store, stream, _) = damaged(&sql).await;
        let all = store.read_stream(&stream, from, direction);
        let (named, _) = place(all.try_collect::<Vec<_>>().await.unwrap_err());
        assert_eq!(named, format!("event {version} of stream `{stream}`"), "{direction:?}");
    }
}

#[tokio::test]
async fn the_last_event_cannot_be_deleted() {
    let (path, stream) = (fresh_path(), fresh_stream());
    let store = open(path.clone()).await;
    store.append(&stream, ExpectedVersion::NoStream, events(3)).await.unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    for sql in ["DELETE FROM eventbus_events WHERE version = 3", "DELETE FROM eventbus_events"] {
        let error = raw.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains("used again"), "{error}");
    }
    assert_eq!(read(&store, &stream).await.len(), 3);
}

#[tokio::test]
async fn a_repeat_of_a_damaged_event_is_refused() {
    let (store, stream, given) = damaged("UPDATE eventbus_events SET event_type = '' WHERE version = 2").await;
    let error = store.append(&stream, ExpectedVersion::NoStream, given).await.unwrap_err();
    assert!(matches!(&error, AppendError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_not_a_position() {
    let reader = Name::from_static("reader");
    let (store, ..) = damaged("INSERT INTO eventbus_checkpoints VALUES ('reader', -1, 0)").await;
    let error = store.load_checkpoint(&reader).await.unwrap_err();
    assert!(matches!(place_of(error), Some(place) if place == "checkpoint `reader`"));
}

fn place_of(error: eventbus::port::CheckpointError) -> Option<String> {
    match *error.source.downcast::<ReadError>().ok()? {
        ReadError::Corrupt { place, .. } => Some(place),
        _ => None,
    }
}
