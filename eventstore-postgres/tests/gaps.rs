//! Positions that are drawn and not committed: what the feed shows meanwhile, step by step.

mod common;

use common::{TestSchema, add, blocked_backend, feed, open, run, stream, within};
use eventbus::{
    ExpectedVersion, Name, NewEvent, Position,
    port::{AppendEvents as _, ReadFeed as _},
};
use eventstore_postgres::PgEventStore;
use sqlx::PgConnection;

/// An event type whose append waits at commit, after its position is drawn, until the holder lets go.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA));
        IF NEW.event_type = 'Doomed' THEN RAISE EXCEPTION 'doomed'; END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.event_type IN ('Slow', 'Doomed')) EXECUTE FUNCTION wait();
    SELECT pg_advisory_lock(hashtext(current_schema()))";

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
        Self {
            store,
            holder,
            watcher,
            schema,
        }
    }

    async fn release(&mut self) {
        run(
            &mut self.holder,
            "SELECT pg_advisory_unlock(hashtext(current_schema()))",
        )
        .await;
    }
}

fn of_type(event_type: &'static str) -> Vec<NewEvent> {
    vec![NewEvent::new(Name::from_static(event_type), 1, "{}")]
}

/// What the feed shows: positions.
async fn positions(store: &PgEventStore) -> Vec<u64> {
    let feed = feed(store).await;
    feed.iter()
        .map(|event| event.position().unwrap().get())
        .collect()
}

async fn head(store: &PgEventStore) -> u64 {
    store.head().await.unwrap().get()
}

/// Runs an append of one event that waits at commit, and another one meanwhile, which does not.
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
        assert_eq!(
            added[0].position(),
            Some(Position::new(position)),
            "it did not overtake"
        );
        let settled: Vec<_> = (1..=before as u64).collect();
        assert_eq!(positions(&slow.store).await, settled, "the feed has a gap");
        assert_eq!(head(&slow.store).await, before as u64);
        slow.release().await;
    };
    let (_, ()) = within(async { tokio::join!(append, overtake) }).await;
    assert_eq!(positions(&slow.store).await, wanted);
    assert_eq!(head(&slow.store).await, before as u64 + 2);
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

#[tokio::test]
async fn the_head_moves_past_positions_that_hold_nothing() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    assert_eq!(head(&store).await, 0);
    let mut admin = schema.connection().await;
    run(
        &mut admin,
        "SELECT nextval('events_position_seq') FROM generate_series(1, 10)",
    )
    .await;
    assert_eq!(head(&store).await, 10);
    assert_eq!(positions(&store).await, [0_u64; 0]);
    add(&store, &stream(), 1).await;
    assert_eq!(positions(&store).await, [11]);
}
