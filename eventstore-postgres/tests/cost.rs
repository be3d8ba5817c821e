//! The cost of an operation on the server: statements, rows read, rows sorted, bytes of WAL. No statement is planned anew
//! at each call. And its cost in this process: bytes of futures, allocations, ids.
//!
//! Each test of the server compares the cost of many operations with that of half as many, so that connecting does not
//! count.

#![allow(clippy::unwrap_used, reason = "as in any test")]

#[path = "cost/allocations.rs"]
mod allocations;
mod common;

use allocations::{AppendCost, IdCounter};
use common::{TestSchema, add, connect, event, events, feed, open, read, run, stream, within};
use eventbus::{
    ExpectedVersion::{Any, NoStream},
    Name, Never, NewEvent, Position,
    clock::SharedClock,
    event::Tag,
    port::{Append, AppendEvents as _, FeedFilter, ReadFeed as _, Snapshots as _, StoredSnapshot},
    prelude::*,
    store::{Boundaries as _, Boundary},
};
use eventbus_test::PrivatePostgres;
use eventstore_postgres::{PgEventStore, PgEventStoreConfig, PgOnPoolConfig};
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, postgres::PgPoolOptions};

/// The cost of operations on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    statements: i64,
    /// Rows and index entries that the server read in tables.
    rows_read: i64,
    rows_sorted: i64,
    wal_bytes: i64,
}

/// The cost of operations, and how many statements the server planned for them.
struct Measured {
    cost: Cost,
    plans: i64,
}

impl Measured {
    /// Fails if the cost exceeds the bound, which is what was measured when it was written. The bound on statements has
    /// room for two pings, which the store sends if a busy machine delays it for a second; the bound on WAL for splits
    /// of index pages.
    fn assert_at_most(self, bound: Cost) {
        let cost = self.cost;
        assert!(cost.statements <= bound.statements + 2, "{cost:?}, bound {bound:?}");
        assert!(cost.rows_read <= bound.rows_read + 10, "{cost:?}, bound {bound:?}");
        assert!(cost.rows_sorted <= bound.rows_sorted, "{cost:?}, bound {bound:?}");
        assert!(cost.wal_bytes <= bound.wal_bytes * 21 / 20 + 4_096, "{cost:?}, bound {bound:?}");
    }

    /// As [`assert_at_most`](Self::assert_at_most); and each statement was planned before, by half as many operations.
    fn assert_planned_once(self, bound: Cost) {
        assert!(self.plans <= 2, "{} further plans for {:?}", self.plans, self.cost);
        self.assert_at_most(bound);
    }

    fn without(self, other: &Self) -> Self {
        let (cost, other_cost) = (self.cost, other.cost);
        let cost = Cost {
            statements: cost.statements - other_cost.statements,
            rows_read: cost.rows_read - other_cost.rows_read,
            rows_sorted: cost.rows_sorted - other_cost.rows_sorted,
            wal_bytes: cost.wal_bytes - other_cost.wal_bytes,
        };
        Self { cost, plans: self.plans - other.plans }
    }
}

/// Settings with which the server logs the plan of each statement once it has run, with the rows of each step, and counts
/// how often it has made one.
const LOG_PLANS: [&str; 12] = [
    "-c",
    "shared_preload_libraries=pg_stat_statements",
    "-c",
    "pg_stat_statements.track_planning=on",
    "-c",
    "session_preload_libraries=auto_explain",
    "-c",
    "auto_explain.log_min_duration=0",
    "-c",
    "auto_explain.log_analyze=on",
    "-c",
    "auto_explain.log_timing=off",
];

/// Returns how many rows the steps that sort have returned, as the log tells:
/// `->  Sort  (cost=0.42..0.42 rows=1 width=8) (actual rows=100 loops=1)`.
fn rows_sorted(log: &str) -> i64 {
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<i64>().unwrap();
    let steps = log.lines().filter(|line| line.contains("Sort  (cost="));
    steps
        .filter_map(|line| {
            let (_, actual) = line.split_once("(actual rows=")?;
            let (_, loops) = actual.split_once("loops=")?;
            Some(number(actual) * number(loops))
        })
        .sum()
}

/// A server on which only the store works.
struct QuietServer {
    server: PrivatePostgres,
    /// In a database of its own, whose statements do not count.
    admin: PgConnection,
}

impl QuietServer {
    async fn start() -> Self {
        // nothing writes to the WAL beside the statements, and no whole pages after a checkpoint
        let quiet = ["-c", "autovacuum=off", "-c", "full_page_writes=off", "-c", "fsync=off"];
        let server = eventbus_test::private_postgres_with(&[&quiet[..], &LOG_PLANS].concat());
        let mut admin = connect(server.url()).await;
        run(&mut admin, "CREATE EXTENSION pg_stat_statements").await;
        run(&mut admin, "CREATE DATABASE orders").await;
        let server = Self { server, admin };
        // creates the tables
        server.store().await.close().await;
        server
    }

    fn database_url(&self) -> String {
        let (server, _) = self.server.url().rsplit_once('/').unwrap();
        format!("{server}/orders")
    }

    async fn store(&self) -> PgEventStore {
        let database_url = self.database_url();
        // the server counts the delivery of a notification as a transaction
        common::open(PgEventStoreConfig { database_url, max_connections: 1, notify: false, ..Default::default() }).await
    }

    /// Returns the cost of `operations`: the difference between twice as many and as many.
    async fn cost(&mut self, operations: usize, work: impl AsyncFn(&PgEventStore, usize)) -> Measured {
        self.cost_with(operations, async |server, operations| {
            let store = server.store().await;
            work(&store, operations).await;
            store.close().await;
        })
        .await
    }

    /// Returns the cost of operations on a pool of the application.
    async fn cost_on_pool(&mut self, operations: usize, work: impl AsyncFn(&PgEventStore, usize)) -> Measured {
        self.cost_with(operations, async |server, operations| {
            let pool = PgPoolOptions::new().max_connections(1).connect(&server.database_url()).await.unwrap();
            let config = PgOnPoolConfig { notify: false, max_transactions: Some(0), ..Default::default() };
            let store = PgEventStore::on_with(pool.clone(), config).await.unwrap();
            work(&store, operations).await;
            pool.close().await;
        })
        .await
    }

    async fn cost_with(&mut self, operations: usize, session: impl AsyncFn(&Self, usize)) -> Measured {
        let once = self.cost_of_session(&session, operations).await;
        self.cost_of_session(&session, 2 * operations).await.without(&once)
    }

    async fn cost_of_session(&mut self, session: impl AsyncFn(&Self, usize), operations: usize) -> Measured {
        let before = self.counters().await;
        session(self, operations).await;
        self.counters().await.without(&before)
    }

    /// Reads the counters, once all sessions have ended: each reports what it has done when it ends.
    async fn counters(&mut self) -> Measured {
        const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'orders'";
        const COUNTERS: &str = "
            SELECT xact_commit + xact_rollback, tup_returned, (pg_current_wal_insert_lsn() - '0/0')::bigint
            FROM pg_stat_database WHERE datname = 'orders'";
        const PLANS: &str = "
            SELECT coalesce(sum(plans), 0)::bigint FROM pg_stat_statements
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'orders')
            -- stands beside `BEGIN` on a pool of the application, and reads no table
            AND query NOT LIKE 'SELECT pg_backend_pid()%'";
        within(async { while sqlx::query_scalar::<_, i64>(SESSIONS).fetch_one(&mut self.admin).await.unwrap() > 0 {} })
            .await;
        let counters = sqlx::query_as(COUNTERS).fetch_one(&mut self.admin).await.unwrap();
        let (statements, rows_read, wal_bytes) = counters;
        let cost = Cost { statements, rows_read, rows_sorted: rows_sorted(&self.server.log()), wal_bytes };
        Measured { cost, plans: sqlx::query_scalar(PLANS).fetch_one(&mut self.admin).await.unwrap() }
    }
}

const OPERATIONS: usize = 200;

#[tokio::test]
async fn an_append_is_one_statement() {
    let mut server = QuietServer::start().await;
    let known = stream();
    add(&server.store().await, &known, 1).await;
    let to_new_stream = server.cost(OPERATIONS, async |store, appends| {
        for _ in 0..appends {
            add(store, &stream(), 1).await;
        }
    });
    to_new_stream.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 0,
        rows_sorted: 0,
        wal_bytes: 200 * 853,
    });
    let to_known_stream = server.cost(OPERATIONS, async |store, appends| {
        for _ in 0..appends {
            add(store, &known, 1).await;
        }
    });
    to_known_stream.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 200,
        rows_sorted: 0,
        wal_bytes: 200 * 613,
    });
    let of_ten = server.cost(OPERATIONS, async |store, appends| {
        for _ in 0..appends {
            add(store, &known, 10).await;
        }
    });
    of_ten.await.assert_planned_once(Cost { statements: 200, rows_read: 200, rows_sorted: 0, wal_bytes: 2_000 * 423 });
    let to_many_streams = server.cost(40, async |store, calls| {
        for _ in 0..calls {
            let append = || Append { stream: stream(), expected: NoStream, events: events(1) };
            let appended = store.append_many((0..100).map(|_| append()).collect()).await;
            assert!(appended.iter().all(Result::is_ok));
        }
    });
    // the streams, which are all new, and the result
    to_many_streams.await.assert_planned_once(Cost {
        statements: 40,
        rows_read: 0,
        rows_sorted: 8_000,
        wal_bytes: 4_000 * 791,
    });
}

/// The settings around the statement cost round trips, which the server does not count.
#[tokio::test]
async fn an_append_on_a_pool_of_the_application_is_one_transaction() {
    let mut server = QuietServer::start().await;
    let known = stream();
    add(&server.store().await, &known, 1).await;
    let appends = server.cost_on_pool(OPERATIONS, async |store, appends| {
        for _ in 0..appends {
            add(store, &known, 1).await;
        }
    });
    appends.await.assert_planned_once(Cost { statements: 200, rows_read: 200, rows_sorted: 0, wal_bytes: 200 * 613 });
}

#[tokio::test]
async fn a_page_is_one_statement_and_reads_its_rows_once() {
    let mut server = QuietServer::start().await;
    let (long, store) = (stream(), server.store().await);
    add(&store, &long, 10_000).await;
    store.close().await;
    let load = server.cost(2, async |store, loads| {
        for _ in 0..loads {
            assert_eq!(read(store, &long).await.len(), 10_000);
        }
    });
    // a row of `streams` for each page, which sorts its events
    load.await.assert_planned_once(Cost { statements: 22, rows_read: 20_022, rows_sorted: 20_000, wal_bytes: 0 });
    let walk = server.cost(2, async |store, walks| {
        for _ in 0..walks {
            assert_eq!(feed(store).await.len(), 10_000);
        }
    });
    // one statement for the names of the streams, and for each page the position of its first event
    walk.await.assert_planned_once(Cost { statements: 22, rows_read: 20_042, rows_sorted: 0, wal_bytes: 0 });
    let filter = FeedFilter::all().event_types([event().event_type().clone()]);
    let filtered = server.cost(2, async |store, walks| {
        for _ in 0..walks {
            let head = store.head().await.unwrap();
            let found: Vec<_> = store.read_feed(Position::START, head, &filter).try_collect().await.unwrap();
            assert_eq!(found.len(), 10_000);
        }
    });
    filtered.await.assert_planned_once(Cost { statements: 22, rows_read: 20_022, rows_sorted: 0, wal_bytes: 0 });
}

fn tagged(tags: [&str; 2]) -> NewEvent {
    event().with_tags(tags.map(|text| Tag::from_stored(text).unwrap()))
}

/// The statement locks and updates a row for each tag, and inserts a row for each tag of an event.
#[tokio::test]
async fn an_append_with_tags_is_one_statement() {
    let mut server = QuietServer::start().await;
    let (known, store) = (stream(), server.store().await);
    store.append(&known, Any, vec![tagged(["course:1", "student:a"])]).await.unwrap();
    store.close().await;
    let with_known_tags = server.cost(OPERATIONS, async |store, appends| {
        for _ in 0..appends {
            store.append(&known, Any, vec![tagged(["course:1", "student:a"])]).await.unwrap();
        }
    });
    with_known_tags.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 200 * 7,
        rows_sorted: 200 * 7,
        wal_bytes: 200 * 1_192,
    });
    let with_new_tags = server.cost(OPERATIONS, async |store, appends| {
        for number in 0..appends {
            let tags = [format!("course:{appends}-{number}"), format!("student:{appends}-{number}")];
            store.append(&known, Any, vec![tagged([&tags[0], &tags[1]])]).await.unwrap();
        }
    });
    with_new_tags.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 200 * 3,
        rows_sorted: 200 * 9,
        wal_bytes: 200 * 1_699,
    });
}

#[tokio::test]
async fn a_page_of_tagged_events_is_one_statement_and_reads_the_events_of_the_tag() {
    let mut server = QuietServer::start().await;
    let store = server.store().await;
    for number in 0..100 {
        // one of a hundred events has the tag
        store.append(&stream(), Any, vec![tagged(["course:1", &format!("student:{number}")])]).await.unwrap();
        add(&store, &stream(), 99).await;
    }
    store.close().await;
    let filter =
        FeedFilter::all().tagged([Tag::from_stored("course:1").unwrap()]).event_types([event().event_type().clone()]);
    let boundary = Boundary {
        tenant_id: None,
        event_types: [event().event_type().clone()].into(),
        items: [[Tag::from_stored("course:1").unwrap()].into()].into(),
    };
    let pages = server.cost(OPERATIONS, async |store, reads| {
        for _ in 0..reads {
            let found = store.read_feed(Position::START, Position::new(u64::MAX), &filter);
            assert_eq!(found.try_collect::<Vec<_>>().await.unwrap().len(), 100);
        }
    });
    // the tag, and for each event its entry, once to find the end of the page, and twice its row
    pages.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 200 * 401,
        rows_sorted: 200 * 301,
        wal_bytes: 0,
    });
    let boundaries = server.cost(OPERATIONS, async |store, reads| {
        for _ in 0..reads {
            let read = store.read_boundary(&boundary).await.unwrap();
            assert_eq!(read.condition.counts, [100]);
            assert_eq!(read.events.try_collect::<Vec<_>>().await.unwrap().len(), 100);
        }
    });
    // also the tag once more, to count, and the stream of each event
    boundaries.await.assert_planned_once(Cost {
        statements: 200,
        rows_read: 200 * 502,
        rows_sorted: 200 * 401,
        wal_bytes: 0,
    });
    let counts = server.cost(OPERATIONS, async |store, counts| {
        for _ in 0..counts {
            assert_eq!(store.count_tagged(&boundary).await.unwrap().counts, [100]);
        }
    });
    counts.await.assert_planned_once(Cost { statements: 200, rows_read: 200 * 2, rows_sorted: 200 * 2, wal_bytes: 0 });
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Enrolment", tags(course, student))]
struct Enrolled {
    course: u64,
    student: u64,
}

#[derive(Debug, Default, Decision)]
#[decision(events(Enrolled))]
struct Seats(u64);

impl Apply for Seats {
    fn apply(&mut self, SeatsEvent::Enrolled(_): &SeatsEvent) {
        self.0 += 1;
    }
}

/// One reads, also the streams of the events, and one appends.
#[tokio::test]
async fn a_decision_is_two_statements() {
    let mut server = QuietServer::start().await;
    let decisions = server.cost(OPERATIONS, async |store, decisions| {
        let app = App::builder().store(store.clone()).without_relay().start().await.unwrap();
        for number in 0..decisions as u64 {
            // of this session alone: of each the tenth decision reads nine events
            let first = 1_000 * decisions as u64;
            let (course, student) = (first + number / 10, first + number / 100 * 10 + number % 10);
            let decision = app.decision::<Seats>().about("course", &course).about("student", &student);
            let enrol = |_: &Seats| Ok::<_, Never>(Enrolled { course, student });
            assert_eq!(decision.decide(enrol).await.unwrap().events.len(), 1);
        }
    });
    // nine events or fewer of each tag
    decisions.await.assert_planned_once(Cost {
        statements: 400,
        rows_read: 10_640,
        rows_sorted: 7_410,
        wal_bytes: 200 * 1_540,
    });
}

#[tokio::test]
async fn a_load_from_a_snapshot_is_one_statement_and_reads_the_events_after_it() {
    const FOLD: Name = Name::from_static("Balance");
    let mut server = QuietServer::start().await;
    let (long, store) = (stream(), server.store().await);
    add(&store, &long, 2_000).await;
    let snapshot = |version: u64| StoredSnapshot { version: version.into(), data: vec![7; 100_000] };
    assert!(store.save_snapshot(&long, &FOLD, &snapshot(1_990)).await.unwrap());
    store.close().await;
    let load = server.cost(OPERATIONS, async |store, loads| {
        for _ in 0..loads {
            let read = store.read_from_snapshot(&long, &FOLD).await.unwrap();
            assert_eq!(read.snapshot, Some(snapshot(1_990)));
            assert_eq!(read.events.try_collect::<Vec<_>>().await.unwrap().len(), 10);
        }
    });
    // the rows of the stream, the snapshot and ten events
    load.await.assert_planned_once(Cost { statements: 200, rows_read: 200 * 12, rows_sorted: 200 * 10, wal_bytes: 0 });
    let save = server.cost(OPERATIONS, async |store, saves| {
        let fold = Name::new("fold", format!("of {saves} saves")).unwrap();
        for version in 1..=saves as u64 {
            let data = vec![7; 500];
            let snapshot = StoredSnapshot { version: version.into(), data };
            assert!(store.save_snapshot(&long, &fold, &snapshot).await.unwrap());
        }
    });
    save.await.assert_planned_once(Cost { statements: 200, rows_read: 200 * 2, rows_sorted: 0, wal_bytes: 200 * 188 });
}

#[test]
fn an_append_holds_few_bytes() {
    let (schema, runtime) = (TestSchema::new(), allocations::runtime());
    let store = runtime.block_on(schema.store());
    // 1,096 bytes, 17,420 bytes and 31 allocations when the bounds were written; 648 bytes of these without the feature
    // `opentelemetry`, which other crates of this workspace turn on
    let bound = AppendCost { future_bytes: 1_210, held_bytes: 19_200, allocations: 34 };
    allocations::of_save(&runtime, &store).assert_at_most(bound);
    // 576, 16,520 and 27
    let bound = AppendCost { future_bytes: 640, held_bytes: 18_200, allocations: 30 };
    allocations::of_append(&runtime, &store).assert_at_most(bound);
}

#[test]
fn an_append_that_waits_holds_few_bytes() {
    let (schema, runtime) = (TestSchema::new(), allocations::runtime());
    let store = runtime.block_on(schema.store());
    let held = allocations::held_by_each_of_many(&runtime, &store);
    // 1,832 when the bound was written
    assert!(held <= 2_100, "{held} bytes for each append");
}

#[test]
fn an_event_is_read_with_few_allocations() {
    let (schema, runtime) = (TestSchema::new(), allocations::runtime());
    let store = runtime.block_on(schema.store());
    let [of_load, of_rebuild] = allocations::of_reads(&runtime, &store);
    // 1.05 and 1.13 when the bounds were written
    assert!(of_load <= 1.2 && of_rebuild <= 1.3, "{of_load} for an event of a load, {of_rebuild} of a rebuild");
}

#[tokio::test]
async fn a_save_draws_an_id_for_each_event_and_one_for_all() {
    let (schema, counter) = (TestSchema::new(), IdCounter::default());
    let store = open(PgEventStoreConfig { clock: SharedClock::new(counter.clone()), ..schema.config() }).await;
    allocations::assert_ids_of_saves(&counter, store).await;
}
