//! A table of events that an administrator has partitioned, as `docs/partition-events.md` says.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{TestSchema, event, events, feed, read, run};
use eventbus::{
    App,
    ExpectedVersion::{Any, NoStream, StreamExists},
    NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, AppendEvents as _, Direction, ReadError, ReadFeed as _, ReadStream as _},
    prelude::*,
};
use eventstore_postgres::PgEventStore;
use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

const GUIDE: &str = include_str!("../../docs/partition-events.md");

/// The positions at which the second and the third partition begin.
const BOUNDARIES: [usize; 2] = [101, 201];

/// Runs an example of the guide, with the boundaries of this test.
async fn follow_guide(connection: &mut PgConnection, chapter: &str) {
    let (_, text) = GUIDE.split_once(&format!("## {chapter}\n")).unwrap();
    let (_, sql) = text.split_once("```sql\n").unwrap();
    let (sql, _) = sql.split_once("```").unwrap();
    let [second, third] = BOUNDARIES.map(|position| format!("({position})"));
    run(connection, &sql.replace("(1000)", &second).replace("(2000)", &third)).await;
}

/// A store with 300 events: 10 streams have events in all partitions, 10 others in each partition alone.
struct Filled {
    schema: TestSchema,
    connection: PgConnection,
    store: PgEventStore,
    events: Vec<RecordedEvent>,
}

impl Filled {
    async fn new() -> Self {
        let schema = TestSchema::new();
        let (store, connection) = (schema.store().await, schema.connection().await);
        for part in 0..3 {
            for number in 0..10 {
                for name in [format!("long-{number}"), format!("part-{part}-{number}")] {
                    store.append(&account(&name), Any, events(5)).await.unwrap();
                }
            }
        }
        let events = feed(&store).await;
        assert_eq!(events.last().unwrap().position(), Some(Position::new(300)));
        Self { schema, connection, store, events }
    }

    fn of_stream(&self, stream: &StreamId) -> Vec<RecordedEvent> {
        self.events.iter().filter(|event| event.metadata().stream() == stream).cloned().collect()
    }

    /// Checks that every way of reading returns the same events as before, byte for byte.
    async fn assert_unchanged(&self, store: &PgEventStore) {
        assert_eq!(feed(store).await, self.events);
        let after_first: Vec<_> = store.read_all(Position::new(150)).try_collect().await.unwrap();
        assert_eq!(after_first, self.events[150..]);
        for number in 0..10 {
            for name in ["long", "part-0", "part-1", "part-2"] {
                let stream = account(&format!("{name}-{number}"));
                let mut wanted = self.of_stream(&stream);
                assert_eq!(read(store, &stream).await, wanted);
                wanted.reverse();
                let backward = store.read_stream(&stream, Version::MAX, Direction::Backward);
                assert_eq!(backward.try_collect::<Vec<_>>().await.unwrap(), wanted);
            }
        }
        assert_eq!(handled_by_projection(store).await, self.events);
    }
}

fn account(id: &str) -> StreamId {
    StreamId::parse("Account", id).unwrap()
}

/// Remembers the events that it handles.
#[derive(Default)]
struct Handled(Arc<Mutex<Vec<RecordedEvent>>>);

#[projection(name = "handled", manual)]
impl Handled {
    fn any(&mut self, event: &RecordedEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// Returns the events that a new projection in memory handles, from the first one.
async fn handled_by_projection(store: &PgEventStore) -> Vec<RecordedEvent> {
    let handled = Arc::default();
    let into = Arc::clone(&handled);
    let app = App::builder().store(store.clone()).projection_with(move || Handled(Arc::clone(&into)));
    let app = app.start().await.unwrap();
    drop(app.projected::<Handled>(store.head().await.unwrap()).await.unwrap());
    app.shutdown(Duration::from_secs(30)).await.unwrap();
    std::mem::take(&mut *handled.lock().unwrap())
}

fn again(event: &RecordedEvent) -> NewEvent {
    common::event().with_event_id(event.metadata().event_id())
}

#[tokio::test]
async fn a_partitioned_table_holds_the_same_events() {
    let mut filled = Filled::new().await;
    follow_guide(&mut filled.connection, "Splitting the table").await;
    let reopened = filled.schema.store().await;
    filled.assert_unchanged(&filled.store).await;
    filled.assert_unchanged(&reopened).await;

    // a repeat is found in every partition, alone and among other appends
    for number in 0..10 {
        let stream = account(&format!("long-{number}"));
        let stored = filled.of_stream(&stream);
        for part in stored.chunks(5) {
            let given: Vec<_> = part.iter().map(again).collect();
            for expected in [Any, NoStream, StreamExists] {
                assert_eq!(reopened.append(&stream, expected, given.clone()).await.unwrap(), part, "{expected}");
            }
            let append = |stream: &StreamId, events| Append { stream: stream.clone(), expected: Any, events };
            let fresh = account(&format!("fresh-{number}"));
            let appends = vec![append(&stream, given.clone()), append(&fresh, events(1))];
            let appended = reopened.append_many(appends).await;
            assert_eq!(appended[0].as_ref().unwrap(), part);
            assert_eq!(appended[1].as_ref().unwrap().len(), 1);
            let partly = reopened.append(&stream, Any, vec![given[0].clone(), event()]).await;
            assert!(matches!(partly, Err(AppendError::EventIdTaken { .. })), "{partly:?}");
        }
        assert_eq!(read(&reopened, &stream).await, stored);
    }

    let stream = account("long-0");
    let more = reopened.append(&stream, Any, events(2)).await.unwrap();
    assert_eq!(more[0].version(), 16);
    assert_eq!(read(&filled.store, &stream).await, [filled.of_stream(&stream), more].concat());
}

#[tokio::test]
async fn the_oldest_partition_can_be_taken_out_and_put_back() {
    let mut filled = Filled::new().await;
    follow_guide(&mut filled.connection, "Splitting the table").await;
    follow_guide(&mut filled.connection, "Taking out the oldest partition").await;
    let store = filled.schema.store().await;

    let rest = &filled.events[100..];
    assert_eq!(feed(&store).await, rest);
    assert_eq!(handled_by_projection(&store).await, rest);
    for number in 0..10 {
        for part in ["part-1", "part-2"] {
            let stream = account(&format!("{part}-{number}"));
            assert_eq!(read(&store, &stream).await, filled.of_stream(&stream));
        }
        let stream = account(&format!("long-{number}"));
        let newer = store.read_stream(&stream, Version::new(6), Direction::Forward);
        assert_eq!(newer.try_collect::<Vec<_>>().await.unwrap(), filled.of_stream(&stream)[5..]);
        let whole = store.read_stream(&stream, Version::FIRST, Direction::Forward).try_collect::<Vec<_>>().await;
        let Err(ReadError::Corrupt { place, .. }) = whole else { panic!("{whole:?}") };
        assert_eq!(place, format!("event 1 of stream `{stream}`"));
    }
    let mut appended = Vec::new();
    for stream in [account("long-0"), account("part-0-0"), account("part-1-0"), account("new")] {
        appended.extend(store.append(&stream, Any, events(2)).await.unwrap());
    }
    let versions: Vec<_> = appended.iter().map(|event| event.version().get()).collect();
    assert_eq!(versions, [16, 17, 6, 7, 6, 7, 1, 2]);
    assert_eq!(feed(&store).await, [rest, &appended].concat());

    follow_guide(&mut filled.connection, "Putting it back").await;
    filled.events.extend(appended);
    filled.assert_unchanged(&store).await;
}
