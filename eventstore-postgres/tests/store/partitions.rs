//! A table of events that an administrator has partitioned, as `docs/partition-events.md` says.

use std::{
    collections::BTreeMap,
    slice,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{TestDatabase, event, events, feed, open, read, recount, run, waiting_backend, within};
use eventbus::{
    App,
    ExpectedVersion::{Any, NoStream, StreamExists},
    NewEvent, Position, RecordedEvent, StreamId, Version,
    event::Tag,
    port::{Append, AppendError, AppendEvents as _, Direction, FeedFilter, ReadError, ReadFeed as _, ReadStream as _},
    prelude::*,
    projection::{Projection, RebuildError},
    store::{Boundaries as _, Boundary},
};
use eventstore_postgres::{PgConnection, PgEventStore};
use futures_util::TryStreamExt as _;

const GUIDE: &str = include_str!("../../../docs/partition-events.md");

/// The positions of the guide at which partitions begin, and those of these tests.
const BOUNDARIES: [(&str, &str); 3] = [("1000", "101"), ("2000", "201"), ("3000", "401")];

/// Runs an example of the guide, with the boundaries of this test.
async fn follow_guide(connection: &mut PgConnection, chapter: &str) {
    run(connection, &guide_sql(chapter)).await;
}

fn guide_sql(chapter: &str) -> String {
    let (_, text) = GUIDE.split_once(&format!("## {chapter}\n")).unwrap();
    let (_, sql) = text.split_once("```sql\n").unwrap();
    let (sql, _) = sql.split_once("```").unwrap();
    BOUNDARIES.iter().fold(sql.to_owned(), |sql, (shown, here)| sql.replace(shown, here))
}

/// A store with 300 events: 10 streams have events in all partitions, 10 others in each partition alone.
struct Filled {
    connection: PgConnection,
    store: PgEventStore,
    events: Vec<RecordedEvent>,
    database: TestDatabase,
}

impl Filled {
    async fn new() -> Self {
        let database = TestDatabase::create("").await;
        let (store, connection) = (open(database.config()).await, database.connection().await);
        for part in 0..3 {
            for number in 0..10 {
                for name in [format!("long-{number}"), format!("part-{part}-{number}")] {
                    store.append(&account(&name), Any, events(5)).await.unwrap();
                }
            }
        }
        let events = feed(&store).await;
        assert_eq!(events.last().unwrap().position(), Some(Position::new(300)));
        Self { connection, store, events, database }
    }

    async fn reopen(&self) -> PgEventStore {
        open(self.database.config()).await
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
    crate::common::event().with_event_id(event.metadata().event_id())
}

#[tokio::test]
async fn an_added_partition_takes_the_later_events() {
    let mut filled = Filled::new().await;
    follow_guide(&mut filled.connection, "Splitting the table").await;
    follow_guide(&mut filled.connection, "Adding a partition").await;
    let reopened = filled.reopen().await;
    filled.assert_unchanged(&reopened).await;
    for number in 0..30 {
        let stream = account(&format!("later-{number}"));
        let stored = reopened.append(&stream, NoStream, events(5)).await.unwrap();
        assert_eq!(reopened.append(&stream, Any, stored.iter().map(again).collect()).await.unwrap(), stored);
    }
    let positions = "SELECT min(position), max(position) FROM events_4";
    let later: (i64, i64) = sqlx::query_as(positions).fetch_one(&mut filled.connection).await.unwrap();
    assert_eq!(later, (401, 450));
    assert_eq!(feed(&reopened).await.len(), 450);
}

/// Each transaction of the guide begins while one with an append is open, and a further append begins while the guide waits.
/// The server finds no deadlock between them.
#[tokio::test]
async fn the_guide_and_running_appends_do_not_wait_in_a_circle() {
    let mut filled = Filled::new().await;
    // so that the server would end the guide's transaction, as the store repeats an append
    let of_appends = format!("ALTER DATABASE {} SET deadlock_timeout = '60s'", filled.database.name());
    run(&mut filled.connection, &of_appends).await;
    for (chapter, of_open) in [
        ("Splitting the table", "part-2-0"),
        ("Adding a partition", "part-2-0"),
        ("Taking out the oldest partition", "part-2-0"),
        // the row of a stream that the guide updates
        ("Putting it back", "part-0-0"),
    ] {
        let store = filled.reopen().await;
        // so that the statement is prepared: then it locks the tables in the order of its plan. The first one lists the type.
        for _ in 0..2 {
            store.append(&account("long-1"), Any, events(5)).await.unwrap();
        }
        let connect = || filled.database.connection();
        let (mut guide, mut watcher, mut open) = tokio::join!(connect(), connect(), connect());
        let sql = guide_sql(chapter);
        let (before, transaction) = sql.split_once("BEGIN;").unwrap();
        run(&mut guide, before).await;
        run(&mut guide, "SET deadlock_timeout = '1s'").await;
        let transaction = format!("BEGIN;{transaction}");

        run(&mut open, "BEGIN").await;
        store.append_in(&mut open, &account(of_open), Any, events(1)).await.unwrap();
        let guide = tokio::spawn(async move { run(&mut guide, &transaction).await });
        waiting_backend(&mut watcher, "BEGIN;").await;
        let appending = store.clone();
        let append = tokio::spawn(async move { appending.append(&account("long-0"), Any, events(5)).await });
        waiting_backend(&mut watcher, "INSERT INTO").await;
        store.append_in(&mut open, &account("long-2"), Any, events(1)).await.unwrap();
        run(&mut open, "COMMIT").await;
        within(guide).await.expect(chapter);
        within(append).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_partitioned_table_holds_the_same_events() {
    let mut filled = Filled::new().await;
    follow_guide(&mut filled.connection, "Splitting the table").await;
    let reopened = filled.reopen().await;
    filled.assert_unchanged(&filled.store).await;
    filled.assert_unchanged(&reopened).await;

    // a repeat is found in every partition, of one event or several, alone and among other appends
    for number in 0..10 {
        let stream = account(&format!("long-{number}"));
        let stored = filled.of_stream(&stream);
        for event in &stored {
            let one = slice::from_ref(event);
            assert_eq!(reopened.append(&stream, Any, vec![again(event)]).await.unwrap(), one);
        }
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
    let store = filled.reopen().await;

    let rest = &filled.events[100..];
    assert_eq!(feed(&store).await, rest);
    assert_eq!(handled_by_projection(&store).await, rest);
    assert_eq!(store.find_missing_event(None).await.unwrap(), None, "archived events are not missing");
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

fn tagged(tags: &[&str]) -> NewEvent {
    event().with_tags(tags.iter().map(|text| Tag::from_stored(text).unwrap()))
}

async fn read_tagged(store: &PgEventStore, tags: &[&str]) -> Vec<RecordedEvent> {
    let filter = FeedFilter::all().tagged(tags.iter().map(|text| Tag::from_stored(text).unwrap()));
    let (start, end) = (Position::START, Position::new(u64::MAX));
    let found: Vec<_> = store.read_feed(start, end, &filter).try_collect().await.unwrap();
    assert_eq!(store.count_events(start, end, &filter).await.unwrap(), found.len() as u64);
    found
}

/// Tags are counted and read across partitions, and added to events in each. What is taken out is passed by, however many
/// events a page would have had of it.
#[tokio::test]
async fn tags_work_on_partitions() {
    let database = TestDatabase::create("").await;
    let (store, mut connection) = (open(database.config()).await, database.connection().await);
    // 1,100 events with the tag, of which the first 100 will be taken out
    let mut stored = Vec::new();
    for number in 0..11 {
        let events = (0..100).map(|_| tagged(&["owner:ada"]));
        stored.extend(store.append(&account(&number.to_string()), NoStream, events.collect()).await.unwrap());
    }
    follow_guide(&mut connection, "Splitting the table").await;
    let store = open(database.config()).await;
    let given = tagged(&["owner:ada", "bank:1"]);
    for _ in 0..2 {
        // also a repeat, which is found in its partition
        let more = store.append(&account("0"), Any, vec![given.clone()]).await.unwrap();
        assert_eq!(more[0].version(), 101);
        stored.truncate(1_100);
        stored.extend(more);
    }
    let bank = Tag::from_stored("bank:1").unwrap();
    for event in [&stored[3], &stored[150], &stored[1_000]] {
        assert!(store.add_tag(event, &bank).await.unwrap());
        assert!(!store.add_tag(event, &bank).await.unwrap());
    }
    assert_eq!(recount(&mut connection).await, [""; 0]);
    assert_eq!(read_tagged(&store, &["owner:ada"]).await, stored);
    let both = [3, 150, 1_000, 1_100].map(|place: usize| stored[place].clone());
    assert_eq!(read_tagged(&store, &["owner:ada", "bank:1"]).await, both);

    let boundary = Boundary {
        tenant_id: None,
        event_types: [event().event_type().clone()].into(),
        items: [[Tag::from_stored("owner:ada").unwrap()].into()].into(),
    };
    let counted = store.count_tagged(&boundary).await.unwrap();
    follow_guide(&mut connection, "Taking out the oldest partition").await;
    assert_eq!(read_tagged(&store, &["owner:ada"]).await, stored[100..]);
    assert_eq!(read_tagged(&store, &["bank:1"]).await, both[1..]);
    assert_eq!(store.count_tagged(&boundary).await.unwrap(), counted, "counts do not shrink");
    let gone = store.add_tag(&stored[5], &bank).await;
    assert!(matches!(gone, Err(AppendError::Refused { .. })), "{gone:?}");
    follow_guide(&mut connection, "Putting it back").await;
    assert_eq!(read_tagged(&store, &["owner:ada"]).await, stored);
    assert_eq!(recount(&mut connection).await, [""; 0]);
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    cents: i64,
}

/// A row for each event of any type.
struct EventRows;

#[projection(name = "event-rows", tables("event_rows"), manual)]
impl EventRows {
    async fn any(&self, event: &RecordedEvent, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let meta = event.metadata();
        let insert = sqlx::query("INSERT INTO event_rows VALUES ($1, $2, $3, $4)");
        let insert = insert.bind(event.position().unwrap_or_default().as_i64()).bind(meta.aggregate_id().as_str());
        insert.bind(meta.version().get().cast_signed()).bind(event.payload()).execute(connection).await.map(drop)
    }
}

/// A row for each account, of events of one type.
struct Balances;

#[projection(name = "balances", tables("balances"), key = "account", manual)]
impl Balances {
    async fn deposited(
        &self,
        event: &Deposited,
        meta: &Metadata,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO balances AS b VALUES ($1, $2, $3)
            ON CONFLICT (account) DO UPDATE SET version = excluded.version, cents = b.cents + excluded.cents";
        let insert = sqlx::query(sql).bind(meta.aggregate_id().as_str()).bind(meta.version().get().cast_signed());
        insert.bind(event.cents).execute(connection).await.map(drop)
    }
}

const TABLES: &str = "
    CREATE TABLE public.event_rows (position bigint PRIMARY KEY, account text, version bigint, payload text);
    CREATE TABLE public.balances (account text PRIMARY KEY, version bigint, cents bigint)";

/// What a bug that is now repaired could have done to the rows.
const DAMAGE: &str = "DELETE FROM public.event_rows WHERE version % 2 = 0; UPDATE public.event_rows SET payload = '{}';
    DELETE FROM public.balances WHERE account LIKE '%-1'; UPDATE public.balances SET cents = -1";

/// The rows of both projections, as text.
type Rows = (Vec<String>, Vec<String>);

async fn rows(connection: &mut PgConnection) -> Rows {
    let of_events =
        "SELECT concat_ws(' ', position, account, version, payload) FROM public.event_rows ORDER BY position";
    let of_accounts =
        "SELECT concat_ws(' ', account, version, cents) FROM public.balances ORDER BY account COLLATE \"C\"";
    (
        sqlx::query_scalar(of_events).fetch_all(&mut *connection).await.unwrap(),
        sqlx::query_scalar(of_accounts).fetch_all(connection).await.unwrap(),
    )
}

/// Returns the rows that some events make.
fn rows_of(events: &[RecordedEvent]) -> Rows {
    let mut balances = BTreeMap::<&str, (Version, i64)>::new();
    let mut of_events = Vec::new();
    for event in events {
        let (account, version) = (event.metadata().aggregate_id().as_str(), event.version());
        of_events.push(format!("{} {account} {version} {}", event.position().unwrap(), event.payload()));
        let balance = balances.entry(account).or_default();
        *balance = (version, balance.1 + event.decode::<Deposited>().unwrap().cents);
    }
    let of_accounts = balances.iter().map(|(account, (version, cents))| format!("{account} {version} {cents}"));
    (of_events, of_accounts.collect())
}

async fn app_with_rows(store: &PgEventStore) -> App {
    let builder = App::builder().store(store.clone()).projection(EventRows).projection(Balances).without_relay();
    builder.start().await.unwrap()
}

async fn wait_for_rows(app: &App) {
    let head = app.store().head().await.unwrap();
    drop(app.projected::<EventRows>(head).await.unwrap());
    drop(app.projected::<Balances>(head).await.unwrap());
}

/// Damages the rows, makes them anew, and checks that they are those of `events`.
async fn rebuild_rows(app: &App, connection: &mut PgConnection, events: &[RecordedEvent]) {
    run(connection, DAMAGE).await;
    assert_ne!(rows(connection).await, rows_of(events));
    rebuild::<EventRows>(app, events).await;
    rebuild::<Balances>(app, events).await;
    assert_eq!(rows(connection).await, rows_of(events));
}

async fn rebuild<P: Projection>(app: &App, events: &[RecordedEvent]) {
    let rebuilt = app.rebuild::<P>().await.unwrap();
    assert_eq!((rebuilt.events, rebuilt.skipped), (events.len() as u64, 0), "{}", P::definition().name);
}

/// The rows of a rebuild are those that the projections wrote before the split, also in an app that runs meanwhile. What
/// is taken out is left out of a rebuild, until it is put back; the rows of one aggregate stay as they were then.
#[tokio::test]
async fn rows_are_rebuilt_from_partitions_as_from_the_whole_table() {
    let mut filled = Filled::new().await;
    run(&mut filled.connection, TABLES).await;
    let app = app_with_rows(&filled.store).await;
    wait_for_rows(&app).await;
    let before = rows(&mut filled.connection).await;
    assert_eq!((before.0.len(), before.1.len()), (300, 40));
    assert_eq!(before, rows_of(&filled.events));

    follow_guide(&mut filled.connection, "Splitting the table").await;
    rebuild_rows(&app, &mut filled.connection, &filled.events).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
    let store = filled.reopen().await;
    let app = app_with_rows(&store).await;
    rebuild_rows(&app, &mut filled.connection, &filled.events).await;
    assert_eq!(rows(&mut filled.connection).await, before);
    run(&mut filled.connection, DAMAGE).await;
    for account in ["long-1", "part-0-1", "part-1-1", "part-2-1"] {
        let rebuilt = app.rebuild_aggregate::<Balances>(&self::account(account)).await.unwrap();
        assert_eq!(rebuilt.events, filled.of_stream(&self::account(account)).len() as u64);
    }
    let of_one = |rows: &Rows| -> Vec<String> {
        rows.1.iter().filter(|row| row.split(' ').next().is_some_and(|id| id.ends_with("-1"))).cloned().collect()
    };
    assert_eq!(of_one(&rows(&mut filled.connection).await), of_one(&before));
    assert_eq!(of_one(&before).len(), 4);
    rebuild_rows(&app, &mut filled.connection, &filled.events).await;

    follow_guide(&mut filled.connection, "Taking out the oldest partition").await;
    for name in ["long-0", "part-0-0", "new"] {
        filled.events.extend(store.append(&account(name), Any, events(2)).await.unwrap());
    }
    wait_for_rows(&app).await;
    assert_eq!(rows(&mut filled.connection).await, rows_of(&filled.events), "the rows of what was taken out stay");
    let refused = app.rebuild_aggregate::<Balances>(&account("long-0")).await;
    assert!(matches!(refused, Err(RebuildError::Read(ReadError::Corrupt { .. }))), "{refused:?}");
    assert_eq!(rows(&mut filled.connection).await, rows_of(&filled.events), "and those of a refused rebuild");
    rebuild_rows(&app, &mut filled.connection, &filled.events[100..]).await;

    follow_guide(&mut filled.connection, "Putting it back").await;
    rebuild_rows(&app, &mut filled.connection, &filled.events).await;
    app.shutdown(Duration::from_secs(30)).await.unwrap();
}
