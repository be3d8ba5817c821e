//! Tags: conditions whose answer was lost, appends in transactions, and many decisions about few tags at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::common::{
    TestDatabase, TestSchema, blocked_backend, connect, event, open,
    proxy::{Answers, Proxy},
    recount, run, stream, waiting_backend, within,
};
use eventbus::{
    ExpectedVersion::{Any, Exact, NoStream},
    Name, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    event::{TAGS_MAX, Tag},
    port::{Append, AppendError, AppendEvents as _, MultiStreamAppends as _, ReadFeed as _},
    store::{Boundaries as _, Boundary, BoundaryCondition, FeedFilter, MultiStreamAppend, MultiStreamOutcome},
};
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

const ENROLLED: Name = Name::from_static("Enrolled");
const VIEWED: Name = Name::from_static("Viewed");

fn tag(text: &str) -> Tag {
    Tag::from_stored(text).unwrap()
}

fn tagged(event_type: Name, tags: &[&str]) -> NewEvent {
    NewEvent::new(event_type, 1, r#"{"n":1}"#).with_tags(tags.iter().map(|text| tag(text)))
}

/// A gate at which rows wait that are to be inserted, until the test opens it.
struct Gate(PgConnection);

impl Gate {
    /// Closes a gate before a table of the connection's schema. The wait is longer than any limit of locks.
    async fn close(mut connection: PgConnection, table: &str) -> Self {
        let sql = format!(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
                PERFORM pg_advisory_xact_lock_shared(hashtext(TG_TABLE_SCHEMA));
                RETURN NEW;
            END $$;
            CREATE TRIGGER wait BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION wait();
            SELECT pg_advisory_lock(hashtext(current_schema()))"
        );
        run(&mut connection, &sql).await;
        Self(connection)
    }

    async fn open(mut self) -> PgConnection {
        run(&mut self.0, "SELECT pg_advisory_unlock(hashtext(current_schema()))").await;
        self.0
    }
}

/// The enrolments that have one of the tags.
fn boundary(tags: &[&str]) -> Boundary {
    let items = tags.iter().map(|text| BTreeSet::from([tag(text)])).collect();
    Boundary { tenant_id: None, event_types: [ENROLLED].into(), items }
}

async fn count(store: &PgEventStore, tags: &[&str]) -> BoundaryCondition {
    store.count_tagged(&boundary(tags)).await.unwrap()
}

async fn append_if(
    store: &PgEventStore,
    condition: BoundaryCondition,
    appends: Vec<Append>,
) -> Result<MultiStreamOutcome, AppendError> {
    store.append_streams(MultiStreamAppend { appends, condition: Some(condition), ..Default::default() }).await
}

async fn read_tagged(store: &PgEventStore, text: &str) -> Vec<RecordedEvent> {
    let filter = FeedFilter::all().tagged([tag(text)]);
    store.read_feed(Position::START, Position::new(u64::MAX), &filter).try_collect().await.unwrap()
}

/// An append to which the boundary's further event is its own: the statement without an answer stored it.
#[tokio::test]
async fn own_event_of_a_lost_answer_moves_no_boundary() {
    let schema = TestSchema::new();
    let (direct, proxy) = (schema.store().await, Proxy::start().await);
    let store = open(PgEventStoreConfig { database_url: proxy.url(), ..schema.config() }).await;
    let (gate, mut watcher) =
        (Gate::close(schema.connection().await, "tagged_events").await, schema.connection().await);
    let (to, condition) = (stream(), count(&store, &["course:1"]).await);
    let given = vec![tagged(ENROLLED, &["course:1"])];
    // any version: so that no conflict of versions comes before the boundary
    let appends = vec![Append { stream: to.clone(), expected: Any, events: given }];
    let append = append_if(&store, condition.clone(), appends.clone());
    let lose = async {
        blocked_backend(&mut watcher, schema.name()).await;
        proxy.set(Answers::LoseOne);
        gate.open().await;
        proxy.has_lost().await;
    };
    let (appended, ()) = within(async { tokio::join!(append, lose) }).await;
    let appended = appended.unwrap();
    assert_eq!(appended, MultiStreamOutcome::Appended(vec![crate::common::read(&direct, &to).await]));
    assert_eq!(append_if(&store, condition.clone(), appends).await.unwrap(), appended, "a repeat");
    let other = vec![Append { stream: to, expected: Any, events: vec![event()] }];
    let moved = append_if(&store, condition, other).await;
    assert!(matches!(moved, Err(AppendError::BoundaryMoved { .. })), "{moved:?}");
    assert_eq!(recount(&mut watcher).await, [""; 0]);
}

/// A statement without an answer finds the boundary moved too, if it runs later: counts do not shrink. So the error is
/// certain, but for a condition whose counts the tags have yet to reach.
#[tokio::test]
async fn a_moved_boundary_is_certain_unless_its_counts_may_come() {
    for (expected, is_certain) in [(0, true), (7, false)] {
        let schema = TestSchema::new();
        let store = schema.store().await;
        store.append(&stream(), Any, vec![tagged(VIEWED, &["course:1"])]).await.unwrap();
        let condition = BoundaryCondition { counts: vec![expected], ..count(&store, &["course:1"]).await };
        let (mut holder, mut watcher) = (schema.connection().await, schema.connection().await);
        let another_writer = "BEGIN; UPDATE tags SET counts = counts || '{\"Enrolled\": 1}'";
        run(&mut holder, another_writer).await;
        let appends = vec![Append { stream: stream(), expected: NoStream, events: vec![event()] }];
        let append = append_if(&store, condition, appends);
        let terminate = async {
            // a backend may have ended its wait when it is terminated
            for _ in 0..3 {
                let backend = blocked_backend(&mut watcher, schema.name()).await;
                run(&mut watcher, &format!("SELECT pg_terminate_backend({backend})")).await;
            }
            run(&mut holder, "COMMIT").await;
        };
        let (refused, ()) = within(async { tokio::join!(append, terminate) }).await;
        match (refused, is_certain) {
            (Err(AppendError::BoundaryMoved { .. }), true) | (Err(AppendError::OutcomeUnknown(_)), false) => {}
            (other, _) => panic!("expected {expected}: {other:?}"),
        }
    }
}

/// The events of a transaction are counted when it commits, and not if it is rolled back.
#[tokio::test]
async fn events_with_tags_are_counted_in_a_transaction() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let mut connection = schema.connection().await;
    let (to, of_tenant) = (stream(), stream().with_tenant_id(Some(Uuid::from_u128(7))));
    for (round, commit) in [false, true, false, true].into_iter().enumerate() {
        let before = count(&store, &["course:1", "student:a"]).await;
        let mut transaction = store.begin_transaction().await.unwrap();
        let events = vec![tagged(ENROLLED, &["course:1", "student:a"]), tagged(VIEWED, &["course:1"]), event()];
        let appended = store.append_in(transaction.connection(), &to, Any, events.clone()).await.unwrap();
        let again = store.append_in(transaction.connection(), &to, Any, events).await.unwrap();
        assert_eq!(again, appended);
        let own = vec![tagged(ENROLLED, &["course:1"])];
        store.append_in(transaction.connection(), &of_tenant, Any, own).await.unwrap();
        let refused = vec![tagged(ENROLLED, &["course:1"])];
        let refused = store.append_in(transaction.connection(), &to, Exact(99.into()), refused).await;
        assert!(refused.unwrap_err().is_conflict());
        if commit {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        let number = (round as u64).div_ceil(2);
        assert_eq!(count(&store, &["course:1", "student:a"]).await.counts, vec![number; 2], "round {round}");
        let condition = append_if(&store, before, Vec::new()).await;
        assert_eq!(condition.is_err(), commit, "{condition:?}");
        assert_eq!(recount(&mut connection).await, [""; 0]);
        assert_eq!(read_tagged(&store, "course:1").await.len() as u64, 3 * number);
    }
}

/// Event types have no control characters, but any other: they are keys of the counts.
#[tokio::test]
async fn types_of_any_name_are_counted() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    for (number, name) in ["Тип: '%' \"x\"", r"back\slash", "{}", "a\u{2028}b"].into_iter().enumerate() {
        let name = Name::new("event type", name).unwrap();
        let (first, second) = (format!("course:{number}"), format!("further:{number}"));
        for _ in 0..2 {
            let stored = store.append(&stream(), Any, vec![tagged(name.clone(), &[&first])]).await.unwrap();
            assert!(store.add_tag(&stored[0], &tag(&second)).await.unwrap());
        }
        let boundary = Boundary { event_types: [name].into(), ..boundary(&[&first, &second]) };
        // the first tag counts its two events, and that each was given a further tag
        assert_eq!(store.count_tagged(&boundary).await.unwrap().counts, [4, 2]);
    }
    assert_eq!(recount(&mut schema.connection().await).await, [""; 0]);
}

/// Tags are added to one event at once, and by statements that meet an append of the same event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_are_added_to_an_event_at_once() {
    let schema = TestSchema::new();
    let store = Arc::new(schema.store().await);
    let to = stream();
    let given = tagged(ENROLLED, &["course:1", "hot:0"]);
    let stored = store.append(&to, Any, vec![given.clone()]).await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..16 {
        let (store, to, event, given) = (Arc::clone(&store), to.clone(), stored[0].clone(), given.clone());
        tasks.spawn(async move {
            let mut added = 0;
            for round in 0..8 {
                match number % 4 {
                    // a repeat, which locks the tag and then meets the key of the event
                    3 => assert_eq!(store.append(&to, Any, vec![given.clone()]).await.unwrap()[0], event),
                    _ => {
                        let tag = tag(&format!("hot:{round}"));
                        added += usize::from(store.add_tag(&event, &tag).await.unwrap());
                    }
                }
            }
            added
        });
    }
    let added: usize = within(tasks.join_all()).await.into_iter().sum();
    assert_eq!(added, 7, "each tag is new once, but for the first");
    for number in 9..TAGS_MAX {
        assert!(store.add_tag(&stored[0], &tag(&format!("more:{number}"))).await.unwrap());
    }
    let refused = store.add_tag(&stored[0], &tag("more:64")).await;
    assert!(matches!(refused, Err(AppendError::Refused { .. })), "{refused:?}");
    assert!(!store.add_tag(&stored[0], &tag("hot:7")).await.unwrap(), "a tag that a full event has");
    let mut connection = schema.connection().await;
    assert_eq!(recount(&mut connection).await, [""; 0]);
    // the two first tags were there when each of the others came; the last one saw none come
    let sql = "SELECT coalesce((counts ->> '')::bigint, 0) FROM tags ORDER BY 1";
    let further: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    let last = TAGS_MAX as i64 - 2;
    assert_eq!(further, (0..last).chain([last, last]).collect::<Vec<_>>());
}

/// A pseudorandom number below `below`.
fn dice(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    ((*state >> 33) as usize) % below
}

const COURSES: [&str; 3] = ["course:1", "course:2", "course:3"];
/// Most students of a course.
const CAPACITY: u64 = 40;
const WRITERS: u64 = 8;
const ROUNDS: usize = 120;

/// Decides, appends and adds tags at random; returns the number of decisions that an event of a different writer refused.
async fn write(store: PgEventStore, streams: Arc<Vec<StreamId>>, number: u64) -> usize {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (mut own, mut repeatable): (Vec<RecordedEvent>, Vec<Append>) = Default::default();
    let mut refused = 0;
    for round in 0..ROUNDS {
        // tags that all writers make at about the same time, in an order of their own
        let mut fresh = [format!("fresh:{}", round / 4), format!("fresh:{}", round / 4 + 1), format!("round:{round}")];
        fresh.rotate_left(dice(&mut state, 3));
        let first = dice(&mut state, COURSES.len());
        let chosen = &[COURSES[first], COURSES[(first + 1) % COURSES.len()]][..1 + dice(&mut state, 2)];
        // one of four streams, or one that all writers make at about the same time
        let to = |state: &mut u64| match dice(state, 3) {
            0 => StreamId::parse("Account", &format!("fresh-{}", round / 2)).unwrap(),
            _ => streams[dice(state, streams.len())].clone(),
        };
        let event = |event_type: &Name, tags: &[&str]| {
            let fresh = fresh.iter().map(String::as_str);
            tagged(event_type.clone(), &tags.iter().copied().chain(fresh).collect::<Vec<_>>())
        };
        match dice(&mut state, 9) {
            0..4 => {
                let condition = count(&store, chosen).await;
                if condition.counts.iter().any(|count| *count >= CAPACITY) {
                    continue;
                }
                let (one, two) = (to(&mut state), stream());
                let append = |stream, events| Append { stream, expected: Any, events };
                let events = vec![event(&ENROLLED, chosen), event(&VIEWED, &[])];
                let appends = vec![append(one, events), append(two, vec![event(&VIEWED, chosen)])];
                match append_if(&store, condition, appends).await {
                    Ok(outcome) => own.extend(outcome.into_records()),
                    Err(error) => {
                        assert!(error.is_conflict(), "{error:?}");
                        refused += 1;
                    }
                }
            }
            4 => {
                let append = Append { stream: to(&mut state), expected: Any, events: vec![event(&VIEWED, &COURSES)] };
                own.extend(store.append(&append.stream, Any, append.events.clone()).await.unwrap());
                repeatable.push(append);
            }
            6 => {
                // locks the tags, and then meets the key of the event
                let Some(Append { stream, events, .. }) = repeatable.last().cloned() else { continue };
                let again = store.append(&stream, Any, events.clone()).await.unwrap();
                assert_eq!(again[0].metadata().event_id(), events[0].event_id());
            }
            5 => {
                let mut transaction = store.begin_transaction().await.unwrap();
                let events = vec![event(&VIEWED, chosen), event(&VIEWED, &[])];
                store.append_in(transaction.connection(), &to(&mut state), Any, events).await.unwrap();
                transaction.commit().await.unwrap();
            }
            _ => {
                // of any writer: two may add to one event
                let recent: Vec<_> = read_tagged(&store, &fresh[0]).await;
                let Some(event) = recent.get(dice(&mut state, recent.len().max(1))).or(own.last()) else { continue };
                let course = if *event.event_type() == VIEWED { COURSES[first] } else { "note:1" };
                store.add_tag(event, &tag(course)).await.unwrap();
            }
        }
    }
    store.close().await;
    refused
}

/// Returns the number of circles that the server has found in a database, which `admin` does not use.
async fn deadlocks(admin: &mut PgConnection, database: &str) -> i64 {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    // a session reports what it has done when it ends
    within(async {
        while sqlx::query_scalar::<_, i64>(sessions).bind(database).fetch_one(&mut *admin).await.unwrap() > 0 {}
    })
    .await;
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = $1";
    sqlx::query_scalar(sql).bind(database).fetch_one(admin).await.unwrap()
}

/// A database whose server looks for circles before a wait of the store is over.
async fn watchful_database() -> TestDatabase {
    let database = TestDatabase::create("").await;
    let mut admin = connect(eventbus_test::postgres_url()).await;
    run(&mut admin, &format!("ALTER DATABASE {} SET deadlock_timeout = '5ms'", database.name())).await;
    database
}

async fn close_without_circles(store: PgEventStore, sessions: [PgConnection; 2], database: &TestDatabase) {
    store.close().await;
    for session in sessions {
        session.close().await.unwrap();
    }
    let mut admin = connect(eventbus_test::postgres_url()).await;
    assert_eq!(deadlocks(&mut admin, database.name()).await, 0);
}

/// An append without a condition, too, waits for its tags before it inserts a stream: the transaction that has the tag may
/// insert the same stream.
#[tokio::test]
async fn tags_are_locked_before_streams_are_inserted() {
    let database = watchful_database().await;
    let store = open(PgEventStoreConfig { notify: false, ..database.config() }).await;
    store.append(&stream(), Any, vec![tagged(VIEWED, &["course:1"])]).await.unwrap();
    let (mut holder, mut watcher) = (database.connection().await, database.connection().await);
    run(&mut holder, "BEGIN; SELECT 1 FROM tags FOR UPDATE").await;
    let to = StreamId::parse("Account", "new").unwrap();
    let append = store.append(&to, NoStream, vec![tagged(ENROLLED, &["course:1"])]);
    let meet = async {
        blocked_backend(&mut watcher, "eventbus").await;
        let insert = "INSERT INTO streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
            VALUES ('new', 'Account', '00000000-0000-0000-0000-000000000000', 0, now())";
        run(&mut holder, insert).await;
        run(&mut holder, "ROLLBACK").await;
    };
    let (appended, ()) = within(async { tokio::join!(append, meet) }).await;
    assert_eq!(appended.unwrap().len(), 1);
    close_without_circles(store, [holder, watcher], &database).await;
}

/// Adding a tag waits for the tag before it updates the event: a repeated append that has the tag may meet the key of the
/// event.
#[tokio::test]
async fn tag_is_locked_before_its_event_is_updated() {
    let database = watchful_database().await;
    let store = open(PgEventStoreConfig { notify: false, ..database.config() }).await;
    let mut watcher = database.connection().await;
    let given = vec![tagged(ENROLLED, &["course:1"]), tagged(ENROLLED, &["course:2"])];
    let to = stream();
    let stored = store.append(&to, Any, given.clone()).await.unwrap();
    let gate = Gate::close(database.connection().await, "events").await;
    let course = tag("course:2");
    let repeat = store.append(&to, Any, given);
    let meet = async {
        blocked_backend(&mut watcher, "eventbus").await;
        let open_gate = async {
            waiting_backend(&mut watcher, "cardinality(h.tags)").await;
            gate.open().await
        };
        tokio::join!(store.add_tag(&stored[0], &course), open_gate)
    };
    let (again, (added, opener)) = within(async { tokio::join!(repeat, meet) }).await;
    assert_eq!((again.unwrap(), added.unwrap()), (stored, true));
    assert_eq!(recount(&mut watcher).await, [""; 0]);
    close_without_circles(store, [opener, watcher], &database).await;
}

/// Adding a tag waits for the tags that exist before it inserts a new one: an append that has locked them may insert it, too.
#[tokio::test]
async fn known_tags_are_locked_before_a_new_one_is_inserted() {
    let database = watchful_database().await;
    let store = open(PgEventStoreConfig { notify: false, ..database.config() }).await;
    let stored = store.append(&stream(), Any, vec![tagged(ENROLLED, &["course:2"])]).await.unwrap();
    let (mut holder, mut watcher) = (database.connection().await, database.connection().await);
    run(&mut holder, "BEGIN; SELECT 1 FROM tags FOR UPDATE").await;
    let first = tag("course:1");
    let meet = async {
        blocked_backend(&mut watcher, "eventbus").await;
        let insert = "INSERT INTO tags (tenant_id, tag, counts)
            VALUES ('00000000-0000-0000-0000-000000000000', 'course:1', '{}') ON CONFLICT DO NOTHING";
        run(&mut holder, insert).await;
        run(&mut holder, "COMMIT").await;
    };
    let (added, ()) = within(async { tokio::join!(store.add_tag(&stored[0], &first), meet) }).await;
    assert!(added.unwrap());
    assert_eq!(recount(&mut watcher).await, [""; 0]);
    close_without_circles(store, [holder, watcher], &database).await;
}

/// The limit of a wait for a lock is longer than the server's wait before it looks for a circle, so that a circle counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_about_few_tags_keep_their_rule_and_wait_in_no_circle() {
    let server = eventbus_test::private_postgres_with(&["-c", "deadlock_timeout=5ms", "-c", "fsync=off"]);
    let mut admin = connect(server.url()).await;
    run(&mut admin, "CREATE DATABASE courses").await;
    let (base, _) = server.url().rsplit_once('/').unwrap();
    let config = PgEventStoreConfig {
        database_url: format!("{base}/courses"),
        max_connections: 1,
        max_transactions: 1,
        notify: false,
        ..Default::default()
    };
    let streams: Arc<Vec<_>> = Arc::new((0..4).map(|_| stream()).collect());
    let mut tasks = JoinSet::new();
    for number in 0..WRITERS {
        tasks.spawn(write(open(config.clone()).await, Arc::clone(&streams), number + 1));
    }
    let refused: usize = within(tasks.join_all()).await.into_iter().sum();
    assert!(refused > 0, "no two writers met");
    assert_eq!(deadlocks(&mut admin, "courses").await, 0, "{}", server.log());
    let store = open(config.clone()).await;
    for course in COURSES {
        let enrolled = read_tagged(&store, course).await;
        let enrolled = enrolled.iter().filter(|event| *event.event_type() == ENROLLED).count() as u64;
        assert!(enrolled > CAPACITY / 2 && enrolled <= CAPACITY, "{course}: {enrolled}");
    }
    store.close().await;
    let mut connection = connect(&config.database_url).await;
    run(&mut connection, "SET search_path TO eventbus").await;
    assert_eq!(recount(&mut connection).await, [""; 0]);
}

/// Callers that append with a locked tag send their statements again and again. Meanwhile appends without the tag go on, also
/// those that share a statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_tag_holds_up_no_append_without_it() {
    let schema = TestSchema::new();
    let config = PgEventStoreConfig { connect_timeout: Duration::from_secs(1), ..schema.config() };
    let store = open(config).await;
    store.append(&stream(), Any, vec![tagged(ENROLLED, &["course:1"])]).await.unwrap();
    let (mut holder, mut watcher) = (schema.connection().await, schema.connection().await);
    run(&mut holder, "BEGIN; SELECT FROM tags FOR UPDATE").await;
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        callers.spawn(async move {
            while store.append(&stream(), Any, vec![tagged(ENROLLED, &["course:1"])]).await.is_err() {}
        });
    }
    blocked_backend(&mut watcher, schema.name()).await;

    let others = async {
        for _ in 0..20 {
            let others: JoinSet<_> = (0..5).map(|_| append_plain(store.clone())).collect();
            others.join_all().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), others).await.expect("they wait for the tag");
    assert_eq!(callers.len(), 100);
    assert!(callers.try_join_next().is_none(), "the tag is still locked");
    run(&mut holder, "ROLLBACK").await;
    within(callers.join_all()).await;
}

async fn append_plain(store: PgEventStore) {
    store.append(&stream(), Any, vec![event()]).await.unwrap();
}
