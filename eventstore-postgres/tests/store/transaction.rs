//! A handler's parameter: the connection of the store's transaction; and transactions that fail or take too long.

use std::{sync::Arc, time::Duration};

use crate::common::{TestDatabase, add, blocked_backend, connect, event, open, run, stream, within};
use eventbus::{
    EventId,
    ExpectedVersion::{Any, NoStream},
    Name, NewEvent, Position, StreamId,
    event::UniqueChange,
    handler::Requirements,
    port::{
        Append, AppendEvents as _, EventStore as _, FromTransaction, Leases as _, MultiStreamAppends as _, Transaction,
        Transactions, TypeKey,
    },
    store::MultiStreamAppend,
};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig, PgTransaction, PgTransactionError};
use sqlx::Connection as _;

type Parameter = PgConnection;

const SHORT: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3_600);

fn take(transaction: &mut dyn Transaction) -> &mut PgConnection {
    <Parameter as FromTransaction<PgEventStore>>::take(Some(transaction.as_any_mut())).unwrap()
}

/// A table in a database of its own, and a store that has a single connection for transactions.
struct Place {
    store: PgEventStore,
    transactions: Arc<dyn Transactions>,
    admin: PgConnection,
    _database: TestDatabase,
}

impl Place {
    async fn new(transaction_timeout: Duration) -> Self {
        let database = TestDatabase::create("").await;
        let config = PgEventStoreConfig { max_transactions: 1, transaction_timeout, ..database.config() };
        let store = open(config).await;
        let mut admin = database.connection().await;
        run(&mut admin, "CREATE TABLE public.rows (number integer PRIMARY KEY)").await;
        Self { transactions: store.transactions().unwrap(), store, admin, _database: database }
    }

    async fn begin(&self) -> Box<dyn Transaction> {
        within(self.transactions.begin()).await.unwrap()
    }

    async fn rows(&mut self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM public.rows").fetch_one(&mut self.admin).await.unwrap()
    }

    /// The number of open transactions in the database, except for the one that asks.
    async fn open_transactions(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND state LIKE '%in transaction%' AND pid <> pg_backend_pid()";
        sqlx::query_scalar(sql).fetch_one(&mut self.admin).await.unwrap()
    }
}

#[tokio::test]
async fn a_handler_takes_part_in_the_transaction() {
    let mut place = Place::new(HOUR).await;
    assert_eq!(place.transactions.transaction_type(), TypeKey::of::<PgTransaction>());
    for commit in [false, true] {
        let mut transaction = place.begin().await;
        run(take(&mut *transaction), "INSERT INTO rows VALUES (1)").await;
        let mut nested = take(&mut *transaction).begin().await.unwrap();
        run(&mut nested, "INSERT INTO rows VALUES (2)").await;
        if commit {
            nested.commit().await.unwrap();
            transaction.commit().await.unwrap();
        }
    }
    assert_eq!(place.rows().await, 2, "the transaction that was dropped is rolled back, the other is kept");
}

/// After a failed statement the server answers a commit with success, and rolls back.
#[tokio::test]
async fn statements_of_a_handler_are_planned_as_its_database_has_it() {
    let place = Place::new(HOUR).await;
    let mut transaction = place.begin().await;
    let setting: String = sqlx::query_scalar("SHOW enable_seqscan").fetch_one(take(&mut *transaction)).await.unwrap();
    assert_eq!(setting, "on");
}

#[tokio::test]
async fn a_failure_that_was_swallowed_is_no_commit() {
    let mut place = Place::new(HOUR).await;
    let mut transaction = place.begin().await;
    assert!(transaction.is_first(&Name::from_static("mail"), &delivered(), EventId::new()).await.unwrap());
    let connection = take(&mut *transaction);
    run(connection, "INSERT INTO rows VALUES (1)").await;
    sqlx::query("INSERT INTO rows VALUES (1)").execute(connection).await.unwrap_err();
    transaction.commit().await.unwrap_err();
    assert_eq!(place.rows().await, 0);
    assert!(place.begin().await.is_first(&Name::from_static("mail"), &delivered(), EventId::new()).await.unwrap());
}

/// Also if the failed statement was the store's own.
#[tokio::test]
async fn a_failure_of_the_store_that_was_swallowed_is_no_commit() {
    let place = Place::new(HOUR).await;
    let (handler, event) = (Name::from_static("mail"), EventId::new());
    let mut transaction = place.begin().await;
    assert!(transaction.is_first(&handler, &delivered(), event).await.unwrap());
    transaction.delete_rows("rows", "number", "none").await.unwrap_err();
    transaction.commit().await.unwrap_err();
    assert!(place.begin().await.is_first(&handler, &delivered(), event).await.unwrap());
}

/// Cut or rounded to fit into the column, the value would match a different row.
#[tokio::test]
async fn a_value_that_no_row_can_have_deletes_none() {
    let mut place = Place::new(HOUR).await;
    for (of_type, there, value) in
        [("varchar(4)", "abcd", "abcde"), ("char(4)", "abcd", "abcde"), ("numeric(3,1)", "1.3", "1.26")]
    {
        let table = format!("DROP TABLE IF EXISTS public.keyed; CREATE TABLE public.keyed (key {of_type})");
        run(&mut place.admin, &format!("{table}; INSERT INTO public.keyed VALUES ('{there}')")).await;
        for (value, left) in [(value, 1), (there, 0)] {
            let mut transaction = place.begin().await;
            transaction.delete_rows("keyed", "key", value).await.unwrap();
            transaction.commit().await.unwrap();
            let count = sqlx::query_scalar("SELECT count(*) FROM public.keyed").fetch_one(&mut place.admin);
            let count: i64 = count.await.unwrap();
            assert_eq!(count, left, "{of_type}, {value}");
        }
    }
}

#[tokio::test]
async fn no_delivery_is_older_than_any_time() {
    let place = Place::new(HOUR).await;
    let mut transaction = place.begin().await;
    assert!(transaction.is_first(&Name::from_static("mail"), &delivered(), EventId::new()).await.unwrap());
    transaction.commit().await.unwrap();
    for older_than in [HOUR * 10_000 * 8_766, Duration::MAX] {
        assert_eq!(place.store.forget_deliveries(older_than).await.unwrap(), 0, "{older_than:?}");
    }
}

#[tokio::test]
async fn a_paused_owner_holds_nobody_up_for_ever() {
    let place = Place::new(SHORT).await;
    let (role, one, two) = (Name::from_static("role"), Name::from_static("one"), Name::from_static("two"));
    let lease = place.store.acquire_lease(&role, &one, HOUR).await.unwrap().unwrap();
    let mut paused = place.begin().await;
    assert!(paused.advance(&lease, Position::START, Position::new(1)).await.unwrap());
    within(place.store.seize_lease(&role, &two, HOUR)).await.unwrap();
    paused.commit().await.unwrap_err();
    let mut again = place.begin().await;
    assert!(!again.advance(&lease, Position::START, Position::new(1)).await.unwrap());
}

#[tokio::test]
async fn a_transaction_that_takes_too_long_is_not_committed() {
    let mut place = Place::new(SHORT).await;
    let mut transaction = place.begin().await;
    let busy = async {
        // busy, so the server does not end it as idle
        let started = std::time::Instant::now();
        while started.elapsed() < SHORT + SHORT {
            run(take(&mut *transaction), "INSERT INTO rows VALUES (1) ON CONFLICT DO NOTHING").await;
        }
    };
    busy.await;
    let error = transaction.commit().await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(PgTransactionError::TimedOut { .. })), "{error}");
    place.begin().await;
    assert_eq!(place.rows().await, 0);
}

#[tokio::test]
async fn a_transaction_given_up_midway_leaves_a_clean_connection() {
    let mut place = Place::new(HOUR).await;
    let mut transaction = place.begin().await;
    let midway = run(take(&mut *transaction), "INSERT INTO rows VALUES (1); SELECT pg_sleep(1)");
    assert!(tokio::time::timeout(SHORT, midway).await.is_err(), "it was not midway");
    drop(transaction);
    let mut next = place.begin().await;
    run(take(&mut *next), "INSERT INTO rows VALUES (2)").await;
    next.commit().await.unwrap();
    assert_eq!(place.rows().await, 1);
}

/// A begin dropped at any point returns its connection outside of a transaction.
#[tokio::test]
async fn a_begin_that_is_given_up_leaves_no_transaction_open() {
    let mut place = Place::new(HOUR).await;
    drop(place.begin().await);
    for times in 1..20 {
        let closed = async { while place.open_transactions().await > 0 {} };
        within(closed).await;
        let mut begin = std::pin::pin!(place.transactions.begin());
        for _ in 0..times {
            if futures_util::poll!(&mut begin).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let closed = async { while place.open_transactions().await > 0 {} };
    within(closed).await;
}

#[test]
fn a_handler_demands_transactions_of_this_store() {
    let mut requirements = Requirements::default();
    <Parameter as FromTransaction<PgEventStore>>::requires(&mut requirements);
    assert_eq!(requirements.transactions(), [TypeKey::of::<PgTransaction>()]);
    assert!(<Parameter as FromTransaction<PgEventStore>>::take(None).is_err());
    let mut foreign = 5_u32;
    assert!(<Parameter as FromTransaction<PgEventStore>>::take(Some(&mut foreign)).is_err());
}

/// The server has ended the transaction, and its owner does not know yet.
#[tokio::test]
async fn closing_the_store_does_not_wait_for_a_transaction_that_somebody_keeps() {
    let place = Place::new(SHORT).await;
    let kept = place.begin().await;
    within(place.store.close()).await;
    assert!(place.transactions.begin().await.is_err(), "it is closed");
    assert!(kept.commit().await.is_err());
}

/// The stream of the delivered events.
fn delivered() -> StreamId {
    StreamId::parse("Order", "1").unwrap()
}

/// The first set-up waits after its `CREATE TABLE`, so that all of them are under way together.
#[tokio::test]
async fn set_ups_of_tables_at_once_run_one_after_the_other() {
    const SET_UP: &str =
        "CREATE TABLE IF NOT EXISTS order_rows (number integer PRIMARY KEY); LOCK TABLE gate IN SHARE MODE";
    let database = TestDatabase::create("").await;
    let store = open(database.config()).await;
    let (mut admin, mut gate) = (database.connection().await, database.connection().await);
    run(&mut gate, "CREATE TABLE public.gate ()").await;
    run(&mut gate, "BEGIN; LOCK TABLE public.gate").await;
    let set_ups = tokio::spawn(futures_util::future::join_all((0..8).map(|_| {
        let store = store.clone();
        async move { store.set_up_tables(SET_UP).await.map_err(|error| error.to_string()) }
    })));
    within(async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut admin).await.unwrap() < 8 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    run(&mut gate, "COMMIT").await;
    assert_eq!(within(set_ups).await.unwrap(), vec![Ok(()); 8]);
}

/// The set-up of an other process may take as long as a transaction of its own.
#[tokio::test]
async fn a_set_up_waits_for_one_that_takes_longer_than_its_own_transactions() {
    const CREATE: &str = "CREATE TABLE IF NOT EXISTS order_rows (number integer PRIMARY KEY)";
    let database = TestDatabase::create("").await;
    let limit = Duration::from_secs(1);
    let first = open(database.config()).await;
    let second = open(PgEventStoreConfig { transaction_timeout: limit, ..database.config() }).await;
    let (mut admin, mut gate) = (database.connection().await, database.connection().await);
    run(&mut gate, "CREATE TABLE public.gate ()").await;
    run(&mut gate, "BEGIN; LOCK TABLE public.gate").await;
    let set_up = format!("{CREATE}; LOCK TABLE gate IN SHARE MODE");
    let first = tokio::spawn(async move { first.set_up_tables(&set_up).await.map_err(|error| error.to_string()) });
    wait_for_lock(&mut admin, "relation", Duration::ZERO).await;
    let limits = "CREATE TABLE public.limits AS
                  SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout')";
    let waiting =
        async { second.set_up_tables(&format!("{CREATE}; {limits}")).await.map_err(|error| error.to_string()) };
    let release = async {
        wait_for_lock(&mut admin, "advisory", limit + SHORT).await;
        run(&mut gate, "COMMIT").await;
    };
    let (second, ()) = within(futures_util::future::join(waiting, release)).await;
    assert_eq!((first.await.unwrap(), second), (Ok(()), Ok(())));
    let limits = sqlx::query_scalar("SELECT string_agg(name || ' ' || setting, ', ' ORDER BY name) FROM public.limits");
    let limits: String = limits.fetch_one(&mut admin).await.unwrap();
    assert_eq!(limits, "lock_timeout 500, statement_timeout 300000", "it waits for locks no longer than others");
}

/// As one that creates an index of a large table.
#[tokio::test]
async fn a_set_up_may_take_longer_than_other_transactions() {
    let limit = Duration::from_secs(1);
    let place = Place::new(limit).await;
    let set_up = "SELECT pg_sleep(2); CREATE TABLE order_rows (number integer PRIMARY KEY)";
    within(place.store.set_up_tables(set_up)).await.unwrap();
    within(place.store.set_up_tables("INSERT INTO order_rows VALUES (1)")).await.unwrap();
}

/// Each statement stays within its limit.
#[tokio::test]
async fn a_set_up_that_takes_too_long_names_its_own_limit() {
    let limit = Duration::from_secs(2);
    let database = TestDatabase::create("").await;
    let config = PgEventStoreConfig { migration_timeout: limit, transaction_timeout: limit, ..database.config() };
    let store = open(config).await;
    let error = within(store.set_up_tables(&"SELECT pg_sleep(1); ".repeat(6))).await.unwrap_err();
    let Some(PgTransactionError::TimedOut { limit: named }) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!(*named, limit + limit);
}

/// A connection has prepared a statement whose columns have changed since: the event is sound, and its handler runs again.
#[tokio::test]
async fn an_outdated_statement_is_no_fault_of_the_event_and_its_connection_is_replaced() {
    const READ: &str = "SELECT * FROM rows";
    let mut place = Place::new(HOUR).await;
    let mut transaction = place.begin().await;
    sqlx::query(READ).execute(take(&mut *transaction)).await.unwrap();
    transaction.commit().await.unwrap();
    run(&mut place.admin, "ALTER TABLE public.rows ADD name text").await;
    let mut transaction = place.begin().await;
    let error = sqlx::query(READ).execute(take(&mut *transaction)).await.unwrap_err();
    drop(transaction);
    let fault = place.transactions.server_fault(&error).expect("it is a fault of the connection");
    assert_eq!(fault.to_string(), "SQLSTATE 0A000", "{error}");
    let mut again = place.begin().await;
    sqlx::query(READ).execute(take(&mut *again)).await.unwrap();
    again.commit().await.unwrap();

    // what no server can do is the fault of the handler
    let mut transaction = place.begin().await;
    let unsupported = "SELECT number FROM rows GROUP BY number FOR UPDATE";
    let error = sqlx::query(unsupported).execute(take(&mut *transaction)).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("0A000"), "{error}");
    assert_eq!(place.transactions.server_fault(&error), None);
}

/// Waits until a session has waited for a lock of this kind for so long.
async fn wait_for_lock(admin: &mut PgConnection, kind: &str, age: Duration) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                   AND wait_event_type = 'Lock' AND wait_event = $1
                   AND clock_timestamp() - xact_start > make_interval(secs => $2))";
    within(async {
        loop {
            let query = sqlx::query_scalar::<_, bool>(waiting).bind(kind).bind(age.as_secs_f64());
            if query.fetch_one(&mut *admin).await.unwrap() {
                return;
            }
        }
    })
    .await;
}

/// The statement that the documentation of `set_up` recommends.
#[tokio::test]
async fn a_set_up_that_adds_a_column_once_waits_for_no_reader_later() {
    let docs = include_str!("../../../eventbus/src/docs/projection.md");
    let add = docs.split("```sql").nth(1).unwrap().split("```").next().unwrap();
    let database = TestDatabase::create("").await;
    let store = open(database.config()).await;
    let set_up =
        format!("CREATE TABLE IF NOT EXISTS order_rows (order_id text PRIMARY KEY, total bigint NOT NULL);{add}");
    within(store.set_up_tables(&set_up)).await.unwrap();
    let mut read = store.begin_read().await.unwrap();
    let columns = "SELECT bool_and(is_paid) FROM order_rows";
    sqlx::query(columns).execute(read.connection()).await.unwrap();
    within(store.set_up_tables(&set_up)).await.unwrap();
    drop(read);
}

#[tokio::test]
async fn a_read_takes_no_longer_than_a_transaction_where_the_server_can_limit_it() {
    let mut place = Place::new(SHORT).await;
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer")
        .fetch_one(&mut place.admin)
        .await
        .unwrap();
    let mut read = place.store.begin_read().await.unwrap();
    let started = std::time::Instant::now();
    let mut is_over = false;
    while started.elapsed() < SHORT + SHORT {
        is_over |= sqlx::query("SELECT 1").execute(read.connection()).await.is_err();
    }
    assert_eq!(is_over, version >= 170_000);
}

#[tokio::test]
async fn a_read_sees_one_snapshot_and_writes_nothing() {
    let mut place = Place::new(HOUR).await;
    let count = "SELECT count(*) FROM rows";
    let mut read = place.store.begin_read().await.unwrap();
    run(&mut place.admin, "INSERT INTO public.rows VALUES (-1)").await;
    for _ in 0..2 {
        let rows: i64 = sqlx::query_scalar(count).fetch_one(read.connection()).await.unwrap();
        assert_eq!(rows, 1, "a row that is stored after the first statement is not seen");
        run(&mut place.admin, "INSERT INTO public.rows SELECT count(*) FROM public.rows").await;
    }
    let refused = sqlx::query("INSERT INTO rows VALUES (7)").execute(read.connection()).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("25006"), "{refused}");
    drop(read);
    assert_eq!(place.rows().await, 3);
}

#[tokio::test]
async fn reads_leave_connections_to_handlers_and_appends() {
    let database = TestDatabase::create("").await;
    let store = open(PgEventStoreConfig { max_transactions: 2, ..database.config() }).await;
    let first = store.begin_read().await.unwrap();
    let mut second = std::pin::pin!(store.begin_read());
    let others = async {
        let handled = store.begin_transaction().await.unwrap();
        crate::common::add(&store, &crate::common::stream(), 1).await;
        drop(handled);
    };
    tokio::select! {
        biased;
        _ = &mut second => panic!("the second read takes the connection of the handlers"),
        () = within(others) => {}
    }
    drop(first);
    within(second).await.unwrap();
}

/// An event that takes a value for its stream, or gives it back.
fn holding(value: Option<&str>) -> NewEvent {
    let change = UniqueChange::new(Name::from_static("email"), value.map(Into::into)).unwrap();
    event().with_unique(vec![change])
}

/// The second append waits for the row of the value, and then finds it held by a stream that its snapshot does not have.
#[tokio::test]
async fn a_value_of_a_stream_that_was_made_meanwhile_is_its_own() {
    let database = TestDatabase::create("").await;
    let store = open(PgEventStoreConfig { max_transactions: 2, ..database.config() }).await;
    let mut watcher = database.connection().await;
    for is_in_transaction in [true, false] {
        let (former, new) = (stream(), stream());
        store.append(&former, Any, vec![holding(Some("a@x"))]).await.unwrap();
        store.append(&former, Any, vec![holding(None)]).await.unwrap();
        let mut first = store.begin_transaction().await.unwrap();
        store.append_in(first.connection(), &new, NoStream, vec![holding(Some("a@x"))]).await.unwrap();
        let second = async {
            let given = vec![holding(Some("a@x"))];
            if !is_in_transaction {
                return store.append(&new, Any, given).await;
            }
            let mut second = store.begin_transaction().await.unwrap();
            let appended = store.append_in(second.connection(), &new, Any, given).await;
            second.commit().await.unwrap();
            appended
        };
        let commit = async {
            blocked_backend(&mut watcher, "eventbus").await;
            first.commit().await.unwrap();
        };
        let (second, ()) = within(async { tokio::join!(second, commit) }).await;
        assert_eq!(second.unwrap()[0].version(), 2_u64, "in a transaction: {is_in_transaction}");
        store.append(&new, Any, vec![holding(None)]).await.unwrap();
    }
}

/// Fails if the append waits for the transaction, which waits for the append.
#[tokio::test]
async fn an_append_that_waits_in_a_circle_gives_up_and_is_made_later() {
    let database = TestDatabase::create("").await;
    let mut watcher = connect(eventbus_test::postgres_url()).await;
    // the server looks for no circle
    run(&mut watcher, &format!("ALTER DATABASE {} SET deadlock_timeout = '1h'", database.name())).await;
    let mut watcher = database.connection().await;
    let store = open(PgEventStoreConfig { transaction_timeout: HOUR, ..database.config() }).await;
    // a statement locks streams in the order of their ids
    let [one, two] = ["1", "2"].map(|id| StreamId::parse("Account", id).unwrap());
    add(&store, &one, 1).await;
    add(&store, &two, 1).await;
    let mut transaction = store.begin_transaction().await.unwrap();
    store.append_in(transaction.connection(), &two, Any, vec![event()]).await.unwrap();
    let appends = [&one, &two].map(|to| Append { stream: to.clone(), expected: Any, events: vec![event()] });
    let append = store.append_streams(MultiStreamAppend { appends: appends.into(), ..Default::default() });
    let close_the_circle = async {
        blocked_backend(&mut watcher, "eventbus").await;
        store.append_in(transaction.connection(), &one, Any, vec![event()]).await.unwrap();
        transaction.commit().await.unwrap();
    };
    // sooner than the store gives up to wait for an answer
    let both = tokio::time::timeout(Duration::from_secs(15), async { tokio::join!(append, close_the_circle) });
    let (appended, ()) = both.await.expect("the append waits in the circle");
    for record in appended.unwrap().into_records() {
        assert_eq!(record.version(), 3_u64);
    }
}

#[tokio::test]
async fn an_append_leaves_the_lock_timeout_of_its_transaction() {
    let place = Place::new(HOUR).await;
    let mut transaction = place.store.begin_transaction().await.unwrap();
    run(transaction.connection(), "SET LOCAL lock_timeout = '7s'").await;
    place.store.append_in(transaction.connection(), &stream(), Any, vec![holding(Some("a@x"))]).await.unwrap();
    let limit: String = sqlx::query_scalar("SHOW lock_timeout").fetch_one(transaction.connection()).await.unwrap();
    assert_eq!(limit, "7s");
}
