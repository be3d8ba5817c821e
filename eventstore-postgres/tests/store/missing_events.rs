//! Events that other software removed: they are found, and the feed stops there.

use std::{sync::Mutex, time::Duration};

use crate::common::{TestDatabase, TestSchema, open, run};
use eventbus::{
    ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId,
    port::{AppendEvents as _, MissingEvent, ReadFeed as _},
    prelude::*,
    projection::{RebuildError, Rebuilt},
    testkit::event_store::{
        feed_stops_at_a_missing_event, filtered_feed_omits_a_missing_event, missing_ends_of_streams_are_found,
        missing_event_fails_at_its_position, missing_events_are_found,
    },
};
use eventstore_postgres::PgConnection;

async fn remove(schema: &TestSchema, event: &RecordedEvent) {
    let position = event.position().unwrap_or_default();
    run(&mut schema.connection().await, &format!("DELETE FROM events WHERE position = {position}")).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_events() {
    let schema = TestSchema::new();
    missing_events_are_found(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_removed_ends_of_streams() {
    let schema = TestSchema::new();
    missing_ends_of_streams_are_found(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_feed() {
    let schema = TestSchema::new();
    feed_stops_at_a_missing_event(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_the_filtered_feed() {
    let schema = TestSchema::new();
    filtered_feed_omits_a_missing_event(schema.store().await, async |event| remove(&schema, event).await).await;
}

#[tokio::test]
async fn the_suite_holds_for_events_at_positions() {
    let schema = TestSchema::new();
    missing_event_fails_at_its_position(schema.store().await, async |event| remove(&schema, event).await).await;
}

/// A search of more streams, and of a longer stream, than one statement counts leaves out no version.
#[tokio::test]
async fn a_search_of_many_statements_leaves_out_no_version() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    let many = "
        INSERT INTO streams (stream_no, version, recorded_at, tenant_id, aggregate_id, aggregate_type)
        SELECT i, CASE WHEN i = 4200 THEN 210000 ELSE 2 END, now(), '00000000-0000-0000-0000-000000000000',
            'id-' || i, 'Account'
        FROM generate_series(1, 4250) i;
        INSERT INTO events (position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id,
            schema_version, event_type, payload)
        SELECT row_number() OVER (), s.stream_no, v, now(), now(), gen_random_uuid(), gen_random_uuid(), 1, 'Common', '{}'
        FROM streams s, generate_series(1, s.version) v";
    run(&mut connection, many).await;
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
    // from the last one on, so that the new gap is the first
    for (stream, version) in [
        (4_201, 1),
        (4_200, 200_001),
        (4_200, 200_000),
        (4_200, 100_001),
        (4_200, 100_000),
        (4_097, 1),
        (4_096, 2),
        (1, 1),
    ] {
        run(&mut connection, &format!("DELETE FROM events WHERE stream_no = {stream} AND version = {version}")).await;
        let missing = store.find_missing_event(None).await.unwrap().unwrap();
        let aggregate_id = format!("id-{stream}");
        assert_eq!((missing.stream.aggregate_id().as_str(), missing.version.get()), (&*aggregate_id, version));
        let alone = store.find_missing_event(Some(&missing.stream)).await.unwrap();
        assert_eq!(alone, Some(missing));
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct Paid {
    cents: i64,
}

#[derive(Default)]
struct InMemory(Vec<i64>);

#[projection(name = "in-memory", manual)]
impl InMemory {
    fn paid(&mut self, event: &Paid) {
        self.0.push(event.cents);
    }
}

#[derive(Default)]
struct Elsewhere(Mutex<Vec<i64>>);

#[projection(name = "elsewhere", manual)]
impl Elsewhere {
    fn paid(&self, event: &Paid) {
        self.0.lock().unwrap().push(event.cents);
    }
}

struct Rows;

#[projection(name = "rows", manual, tables("paid"), key = "id")]
impl Rows {
    async fn paid(&self, event: &Paid, meta: &Metadata, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO paid VALUES ($1, $2)").bind(meta.aggregate_id().as_str());
        insert.bind(event.cents).execute(connection).await.map(drop)
    }
}

fn check_refusal(refused: Result<Rebuilt, RebuildError>, wanted: &MissingEvent) {
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, RebuildError::MissingEvent { missing, .. } if missing == wanted), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains(&wanted.to_string()) && said.contains("restore it"), "{said}");
}

async fn check_unchanged(app: &App, connection: &mut PgConnection) {
    let last = Position::new(5);
    assert_eq!(app.projected::<InMemory>(last).await.unwrap().0, [1, 2, 3, 4, 5]);
    assert_eq!(*app.projected::<Elsewhere>(last).await.unwrap().0.lock().unwrap(), [1, 2, 3, 4, 5]);
    drop(app.projected::<Rows>(last).await.unwrap());
    let rows = sqlx::query_scalar("SELECT cents FROM public.paid ORDER BY cents").fetch_all(connection).await;
    let rows: Vec<i64> = rows.unwrap();
    assert_eq!(rows, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_rebuild_refuses_a_store_with_a_missing_event_and_leaves_everything_as_it_was() {
    let database = TestDatabase::create("").await;
    let (store, mut raw) = (open(database.config()).await, database.connection().await);
    let (one, two) = (StreamId::parse("Order", "1").unwrap(), StreamId::parse("Order", "2").unwrap());
    for (stream, cents) in [(&one, 1), (&one, 2), (&two, 3), (&one, 4), (&two, 5)] {
        let event = NewEvent::from_event(&Paid { cents }).unwrap();
        store.append(stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
    run(&mut raw, "CREATE TABLE public.paid (id text, cents bigint)").await;
    let app = App::builder().store(store).projection_with(InMemory::default).projection_with(Elsewhere::default);
    let app = app.projection(Rows).without_relay().start().await.unwrap();
    check_unchanged(&app, &mut raw).await;
    run(&mut raw, "CREATE TABLE copy AS SELECT * FROM events; DELETE FROM events WHERE position = 2").await;
    let missing = MissingEvent { stream: one.clone(), version: 2.into() };
    check_refusal(app.rebuild::<InMemory>().await, &missing);
    check_refusal(app.rebuild::<Elsewhere>().await, &missing);
    check_refusal(app.rebuild::<Rows>().await, &missing);
    check_refusal(app.rebuild_aggregate::<Rows>(&one).await, &missing);
    check_unchanged(&app, &mut raw).await;
    let of_another = app.rebuild_aggregate::<Rows>(&two).await.unwrap();
    assert_eq!(of_another.events, 2, "no event of this aggregate is missing");
    run(&mut raw, "INSERT INTO events SELECT * FROM copy WHERE position = 2").await;
    assert_eq!(app.rebuild::<InMemory>().await.unwrap().events, 5);
    assert_eq!(app.rebuild::<Rows>().await.unwrap().events, 5);
    assert_eq!(app.rebuild_aggregate::<Rows>(&one).await.unwrap().events, 3);
    check_unchanged(&app, &mut raw).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}
