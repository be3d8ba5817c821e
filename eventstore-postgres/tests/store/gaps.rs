//! Positions that are drawn and not committed: the feed meanwhile, step by step.

use std::time::Duration;

use crate::common::{TestDatabase, TestSchema, add, blocked_backend, feed, open, run, stream, within};
use eventbus::{
    ExpectedVersion, Follow, Name, NewEvent, Position,
    port::{AppendEvents as _, FeedFilter, ReadFeed as _},
    testkit::ManualClock,
};
use eventstore_postgres::PgEventStore;
use futures_util::TryStreamExt as _;
use sqlx::PgConnection;

/// The longest pause of a reader while an append is open, and that at rest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// An event type whose append waits at commit, after its position is drawn, until the holder releases the lock.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA));
        IF NEW.event_type = 'Doomed' THEN RAISE EXCEPTION 'doomed'; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.event_type IN ('Slow', 'Doomed')) EXECUTE FUNCTION wait();
    SELECT pg_advisory_lock(hashtext(current_schema()))";

const LET_GO: &str = "SELECT pg_advisory_unlock(hashtext(current_schema()))";

/// Each read of the locks waits until the holder of the gate opens it.
const GATE: &str = "SET allow_system_table_mods = on;
    CREATE FUNCTION gated_locks() RETURNS SETOF pg_locks LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(4711, 1);
        RETURN QUERY SELECT * FROM pg_lock_status();
    END $$;
    CREATE OR REPLACE VIEW pg_catalog.pg_locks AS SELECT * FROM eventbus.gated_locks();
    SELECT pg_advisory_lock(4711, 1)";

const OPEN_GATE: &str = "SELECT pg_advisory_unlock(4711, 1)";

struct Slow {
    store: PgEventStore,
    holder: PgConnection,
    watcher: PgConnection,
    schema: TestSchema,
}

impl Slow {
    async fn new() -> Self {
        let schema = TestSchema::new();
        let store = open(schema.config()).await;
        let mut holder = schema.connection().await;
        run(&mut holder, SLOW).await;
        let watcher = schema.connection().await;
        Self { store, holder, watcher, schema }
    }
}

fn of_type(event_type: &'static str) -> Vec<NewEvent> {
    vec![NewEvent::new(Name::from_static(event_type), 1, "{}")]
}

/// The positions in the feed.
async fn positions(store: &PgEventStore) -> Vec<u64> {
    let feed = feed(store).await;
    feed.iter().map(|event| event.position().unwrap().get()).collect()
}

async fn head(store: &PgEventStore) -> u64 {
    store.head().await.unwrap().get()
}

/// Runs an append of one event that waits at commit, and meanwhile a second one that does not wait.
async fn overtaken(event_type: &'static str, before: usize, wanted: &[u64]) {
    let mut slow = Slow::new().await;
    let first = stream();
    if before > 0 {
        add(&slow.store, &first, before).await;
    }
    let (store, other) = (open(slow.schema.config()).await, stream());
    let append = store.append(&first, ExpectedVersion::Any, of_type(event_type));
    let overtake = async {
        blocked_backend(&mut slow.watcher, slow.schema.name()).await;
        let added = add(&slow.store, &other, 1).await;
        let position = before as u64 + 2;
        assert_eq!(added[0].position(), Some(Position::new(position)), "it did not overtake");
        let settled: Vec<_> = (1..=before as u64).collect();
        assert_eq!(positions(&slow.store).await, settled, "the feed has a gap");
        assert_eq!(head(&slow.store).await, before as u64);
        run(&mut slow.holder, LET_GO).await;
    };
    let (_, ()) = within(async { tokio::join!(append, overtake) }).await;
    // an error arrives shortly before its transaction releases its locks
    let settled = async { while head(&slow.store).await < before as u64 + 2 {} };
    within(settled).await;
    assert_eq!(positions(&slow.store).await, wanted);
}

#[tokio::test]
async fn what_overtakes_is_shown_after_what_it_overtook() {
    overtaken("Slow", 3, &[1, 2, 3, 4, 5]).await;
}

/// The sequence says 1 before and after its first number is drawn.
#[tokio::test]
async fn the_very_first_event_is_not_skipped_either() {
    overtaken("Slow", 0, &[1, 2]).await;
}

#[tokio::test]
async fn a_position_that_was_rolled_back_holds_nobody_up() {
    overtaken("Doomed", 3, &[1, 2, 3, 5]).await;
}

/// The feed must not skip an append that commits between the snapshot of a page and the read of the locks: it reads the
/// locks first, in a statement of its own.
#[tokio::test]
async fn an_append_that_commits_while_the_bound_is_asked_for_is_not_skipped() {
    let database = TestDatabase::create("").await;
    let store = open(database.config()).await;
    let (mut holder, mut gate) = (database.connection().await, database.connection().await);
    let mut watcher = database.connection().await;
    run(&mut holder, SLOW).await;
    let (first, second) = (stream(), stream());
    let overtaken = store.append(&first, ExpectedVersion::Any, of_type("Slow"));
    let read = async {
        blocked_backend(&mut watcher, "eventbus").await;
        add(&store, &second, 1).await;
        // connecting reads the locks too
        let reader = open(database.config()).await;
        run(&mut gate, GATE).await;
        let commit = async {
            crate::common::waiting_backend(&mut watcher, "pg_locks").await;
            run(&mut holder, LET_GO).await;
            while stored(&mut watcher).await < 2 {}
            run(&mut gate, OPEN_GATE).await;
        };
        tokio::join!(positions(&reader), commit).0
    };
    let (overtaken, read) = within(async { tokio::join!(overtaken, read) }).await;
    assert_eq!(overtaken.unwrap()[0].position(), Some(Position::new(1)));
    assert_eq!(read, [1, 2]);
}

async fn stored(connection: &mut PgConnection) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM events");
    count.fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn no_foreign_transaction_holds_the_feed_up() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    let mut foreign = schema.connection().await;
    let sql = "BEGIN; CREATE TABLE foreign_rows (number integer); SELECT pg_current_xact_id();
        SELECT pg_advisory_xact_lock(1), pg_advisory_xact_lock_shared(1), pg_advisory_xact_lock_shared(1, 1)";
    run(&mut foreign, sql).await;
    add(&store, &stream(), 3).await;
    assert_eq!(positions(&store).await, [1, 2, 3]);
    assert_eq!(head(&store).await, 3);
    run(&mut foreign, "ROLLBACK").await;
}

/// Nor does one that waits for its stream, which a transaction without appends has locked.
#[tokio::test]
async fn an_append_that_waits_for_its_stream_holds_nobody_up() {
    let mut held = crate::common::held::Held::new().await;
    let store = open(held.schema.config()).await;
    let (waits, target) = (store.clone(), held.stream.clone());
    let waits = tokio::spawn(async move { add(&waits, &target, 1).await });
    held.blocked().await;
    add(&open(held.schema.config()).await, &stream(), 3).await;
    assert_eq!(positions(&store).await, [1, 2, 3, 4]);
    assert_eq!(head(&store).await, 4);
    held.release().await;
    let appended = within(waits).await.unwrap();
    assert_eq!(appended[0].position(), Some(Position::new(5)));
}

#[tokio::test]
async fn the_head_is_an_event_and_positions_that_hold_nothing_are_passed() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    assert_eq!(head(&store).await, 0);
    let mut admin = schema.connection().await;
    let draw = "SELECT nextval('events_position_seq') FROM generate_series(1, 10)";
    run(&mut admin, draw).await;
    assert_eq!(head(&store).await, 0);
    assert_eq!(positions(&store).await, [0_u64; 0]);
    add(&store, &stream(), 1).await;
    run(&mut admin, draw).await;
    assert_eq!(head(&store).await, 11);
    assert_eq!(positions(&store).await, [11]);
}

/// The store searches for a filter's events in windows of positions; a window may hold none.
#[tokio::test]
async fn filters_find_what_is_far_apart() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    let mut admin = schema.connection().await;
    let mut wanted = Vec::new();
    for round in 0..5 {
        let event_type = if round % 2 == 0 { "Rare" } else { "Common" };
        let added = store.append(&stream(), ExpectedVersion::Any, of_type(event_type)).await.unwrap();
        wanted.extend((round % 2 == 0).then(|| added[0].clone()));
        run(&mut admin, "SELECT setval('events_position_seq', 90000 + nextval('events_position_seq') * 2)").await;
    }
    let rare = FeedFilter::all().event_types([Name::from_static("Rare")]);
    let read: Vec<_> =
        store.read_feed(Position::START, store.head().await.unwrap(), &rare).try_collect().await.unwrap();
    assert_eq!(read, wanted);
    let count = async |filter| store.count_events(Position::START, Position::new(u64::MAX), filter).await.unwrap();
    assert_eq!((count(&rare).await, count(&FeedFilter::all()).await), (3, 5));
}

/// The second append commits and notifies while the first is open, which then is rolled back without a notification.
#[tokio::test]
async fn a_reader_soon_finds_what_a_roll_back_lets_it_see() {
    let mut slow = Slow::new().await;
    let (reader, clock) = (open(slow.schema.config()).await, ManualClock::new());
    let watch = reader.appended().watch();
    within(async {
        while !watch.hears_all() {
            tokio::task::yield_now().await
        }
    })
    .await;
    let mut following = Follow::new(reader).clock(clock.clone()).start();
    let writer = slow.store.clone();
    let doomed = tokio::spawn(async move { writer.append(&stream(), ExpectedVersion::Any, of_type("Doomed")).await });
    blocked_backend(&mut slow.watcher, slow.schema.name()).await;
    let other = open(slow.schema.config()).await;
    let added = add(&other, &stream(), 1).await;
    let mut found = tokio::spawn(async move { (following.try_next().await.unwrap(), following) });
    // longer than it takes to be at rest
    for _ in 0..40 {
        let pause = clock.wait_for_sleeper(Duration::ZERO).await;
        assert!(pause <= PAUSES[0], "{pause:?}, with an open append");
        clock.advance(pause);
    }
    run(&mut slow.holder, LET_GO).await;
    within(doomed).await.unwrap().unwrap_err();
    let (event, mut following) = loop {
        tokio::select! {
            found = &mut found => break found.unwrap(),
            pause = clock.wait_for_sleeper(Duration::ZERO) => {
                assert!(pause <= PAUSES[0], "{pause:?}, before the event is found");
                clock.advance(pause);
            }
        }
    };
    assert_eq!(event.as_ref(), added.first());
    // no append is open: the sequence stays ahead of the last event, if one drew the last position
    let next = tokio::spawn(async move { following.try_next().await });
    within(crate::common::at_rest(&clock, PAUSES[1])).await;
    next.abort();
}

/// A statement of a caller that goes away may store events, of which no answer tells.
#[tokio::test]
async fn a_caller_that_goes_away_wakes_the_readers() {
    let mut held = crate::common::held::Held::new().await;
    let store = open(held.schema.config()).await;
    let mut watch = store.appended().watch();
    within(async {
        while !watch.hears_all() {
            tokio::task::yield_now().await
        }
    })
    .await;
    within(watch.appended()).await;
    let (writer, target) = (store.clone(), held.stream.clone());
    let append = tokio::spawn(async move { add(&writer, &target, 1).await });
    held.blocked().await;
    append.abort();
    within(watch.appended()).await;
    held.release().await;
}
