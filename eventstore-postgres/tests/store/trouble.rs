//! Appends and reads during faults of the server, of the network or of further transactions.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use crate::common::{
    TestDatabase, TestSchema, add, connect, event, events, feed,
    held::Held,
    open,
    proxy::{Answers, Proxy},
    read, run, stream, within,
};
use eventbus::{
    BoxError, EventContext, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    event::{Tag, UniqueChange},
    port::{
        Append, AppendError, AppendEvents as _, Checkpoints as _, EventStore as _, FeedFilter, Leases as _, Notes as _,
        ReadError, ReadFeed as _, ReadStream as _,
    },
    store::VisitedFeedEvent,
    support::source_chain,
};
use eventstore_postgres::{
    PgEventStore, PgEventStoreConfig, PgOnPoolConfig, PgTransactionError,
    sqlx::{PgPool, postgres::PgConnectOptions},
};
use futures_util::TryStreamExt as _;

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    for expected in [ExpectedVersion::Any, ExpectedVersion::Exact(Version::FIRST), ExpectedVersion::StreamExists] {
        let mut held = Held::new().await;
        let proxy = Proxy::start().await;
        let store = open(PgEventStoreConfig { database_url: proxy.url(), ..held.schema.config() }).await;
        let given = events(2);
        let stream = held.stream.clone();
        let append = store.append(&stream, expected, given.clone());
        let lose = async {
            held.blocked().await;
            proxy.set(Answers::LoseOne);
            held.release().await;
            proxy.has_lost().await;
        };
        let (appended, ()) = within(async { tokio::join!(append, lose) }).await;
        held.is_stored_once(&given, &appended.unwrap()).await;
    }
}

#[tokio::test]
async fn an_append_whose_backend_is_terminated_is_made_again() {
    for expected in [ExpectedVersion::Any, ExpectedVersion::Exact(Version::FIRST)] {
        let mut held = Held::new().await;
        let store = open(held.schema.config()).await;
        let given = events(2);
        let stream = held.stream.clone();
        let append = store.append(&stream, expected, given.clone());
        let terminate = async {
            let first = held.blocked().await;
            run(&mut held.watcher, &format!("SELECT pg_terminate_backend({first})")).await;
            while held.blocked().await == first {}
            held.release().await;
        };
        let (appended, ()) = within(async { tokio::join!(append, terminate) }).await;
        held.is_stored_once(&given, &appended.unwrap()).await;
    }
}

/// A server that takes over may lack the last commits: it gives the numbers of lost streams to new ones, and does not list
/// the types of lost events.
#[tokio::test]
async fn after_a_failover_that_lost_commits_each_event_is_of_its_own_stream() {
    let database = TestDatabase::create("").await;
    assert_each_event_is_of_its_own_stream(&database, open(without_notify(&database)).await).await;
}

/// The pool does not tell of its new connections.
#[tokio::test]
async fn after_such_a_failover_on_a_pool_of_the_application_each_event_is_of_its_own_stream() {
    let database = TestDatabase::create("").await;
    let pool = PgPool::connect(&without_notify(&database).database_url).await.unwrap();
    let config = PgOnPoolConfig { notify: false, ..Default::default() };
    let store = PgEventStore::on_with(pool, config).await.unwrap();
    assert_each_event_is_of_its_own_stream(&database, store).await;
}

fn without_notify(database: &TestDatabase) -> PgEventStoreConfig {
    PgEventStoreConfig { notify: false, ..database.config() }
}

async fn assert_each_event_is_of_its_own_stream(database: &TestDatabase, store: PgEventStore) {
    let stream = stream();
    add(&store, &stream, 1).await;
    assert_eq!(feed(&store).await[0].metadata().stream(), &stream);
    let mut admin = database.connection().await;
    let lose = "SET search_path = eventbus; DELETE FROM events; DELETE FROM streams; DELETE FROM event_types;
        SELECT setval('events_position_seq', 1, false), setval('streams_stream_no_seq', 1, false);
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    run(&mut admin, lose).await;
    let other = open(without_notify(database)).await;
    let of_other = StreamId::parse("Parcel", "p-1").unwrap();
    let sent = vec![NewEvent::new(Name::from_static("Sent"), 1, "{}")];
    other.append(&of_other, ExpectedVersion::NoStream, sent).await.unwrap();
    within(async { while store.head().await.is_err() {} }).await;
    assert_eq!(feed(&store).await[0].metadata().stream(), &of_other);
    add(&store, &stream, 1).await;
    let listed: i64 =
        sqlx::query_scalar("SELECT count(*) FROM eventbus.event_types").fetch_one(&mut admin).await.unwrap();
    assert_eq!(listed, 2);
}

/// The server that takes over may lack the last change of a lease: its next owner then gets the same epoch.
#[tokio::test]
async fn after_a_failover_that_lost_a_lease_its_owner_does_not_renew_that_of_the_next_owner() {
    let schema = TestSchema::new();
    let (store, ttl) = (open(schema.config()).await, Duration::from_secs(3_600));
    let [role, former, next] = ["projection:rows", "former", "next"].map(Name::from_static);
    let lost = store.acquire_lease(&role, &former, ttl).await.unwrap().unwrap();
    run(&mut schema.connection().await, "DELETE FROM leases").await;
    let held = store.acquire_lease(&role, &next, ttl).await.unwrap().unwrap();
    assert_eq!(held.epoch, lost.epoch);
    assert!(!store.renew_lease(&lost, ttl).await.unwrap());
    assert!(store.renew_lease(&held, ttl).await.unwrap());
    store.release_lease(&lost).await.unwrap();
    assert_eq!(store.lease_of(&role).await.unwrap(), Some(held));
}

/// The server refuses what a connection has prepared once a column has a different type.
#[tokio::test]
async fn a_connection_whose_prepared_statement_fits_no_more_is_replaced() {
    let schema = TestSchema::new();
    let store = open(PgEventStoreConfig { max_connections: 1, ..schema.config() }).await;
    let name = Name::from_static("kept");
    store.save_note(&name, "text").await.unwrap();
    store.load_note(&name).await.unwrap();
    run(&mut schema.connection().await, "ALTER TABLE notes ALTER note TYPE varchar").await;
    store.load_note(&name).await.unwrap_err();
    assert_eq!(store.load_note(&name).await.unwrap().as_deref(), Some("text"));
}

/// A statement without an answer may still run, and meet the version it expects once the stream gets there.
#[tokio::test]
async fn a_conflict_that_may_pass_is_unknown_where_an_answer_was_lost() {
    let schema = TestSchema::new();
    let (store, stream) = (open(schema.config()).await, stream());
    add(&store, &stream, 1).await;
    let (mut holder, mut watcher) = (schema.connection().await, schema.connection().await);
    let sql = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock(hashtext(TG_TABLE_SCHEMA));
            RETURN NULL;
        END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON streams FOR EACH STATEMENT EXECUTE FUNCTION wait();
        SELECT pg_advisory_lock(hashtext(current_schema()))";
    run(&mut holder, sql).await;
    let ahead = store.append(&stream, ExpectedVersion::Exact(2.into()), events(1));
    let terminate = async {
        let backend = crate::common::blocked_backend(&mut watcher, schema.name()).await;
        run(&mut watcher, &format!("SELECT pg_terminate_backend({backend})")).await;
    };
    let (unknown, ()) = within(async { tokio::join!(ahead, terminate) }).await;
    assert!(matches!(unknown, Err(AppendError::OutcomeUnknown(_))), "{unknown:?}");
    // an append with a version that the stream has passed stays in conflict for ever
    run(&mut holder, "SELECT pg_advisory_unlock(hashtext(current_schema()))").await;
    let behind = store.append(&stream, ExpectedVersion::Exact(0.into()), events(1)).await;
    assert!(behind.unwrap_err().is_conflict());
}

#[tokio::test]
async fn an_append_without_any_answer_is_unknown_in_time() {
    let mut held = Held::new().await;
    let proxy = Proxy::start().await;
    let config = PgEventStoreConfig { database_url: proxy.url(), connect_timeout: SHORT, ..held.schema.config() };
    let store = open(PgEventStoreConfig { statement_timeout: SHORT, ..config }).await;
    let given = events(2);
    let stream = held.stream.clone();
    let mut signal = store.appended().watch();
    let begin = Instant::now();
    let append = store.append(&stream, ExpectedVersion::Any, given.clone());
    let swallow = async {
        held.blocked().await;
        proxy.set(Answers::Swallow);
        held.release().await;
    };
    let (unknown, ()) = within(async { tokio::join!(append, swallow) }).await;
    let unknown = unknown.unwrap_err();
    assert!(matches!(unknown, AppendError::OutcomeUnknown(_)) && unknown.is_retryable(), "{unknown:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    within(signal.appended()).await; // readers poll, because the event may be stored

    proxy.set(Answers::Pass);
    let appended = store.append(&stream, ExpectedVersion::Any, given.clone()).await.unwrap();
    held.is_stored_once(&given, &appended).await;
}

/// The server ends the transaction later: it waits for the row for half of the time, and then for the next statement.
#[tokio::test]
async fn an_append_in_a_transaction_waits_for_an_answer_as_long_as_the_transaction_may_take() {
    let mut held = Held::new().await;
    let proxy = Proxy::start().await;
    let transaction_timeout = Duration::from_secs(10);
    let config = PgEventStoreConfig { database_url: proxy.url(), transaction_timeout, ..held.schema.config() };
    let store = open(config).await;
    let mut transaction = within(store.transactions().unwrap().begin()).await.unwrap();
    let append = Append { stream: held.stream.clone(), expected: ExpectedVersion::Any, events: events(1) };
    let swallow = async {
        held.blocked().await;
        proxy.set(Answers::Swallow);
    };
    let (late, ()) = within(async { tokio::join!(transaction.append(append), swallow) }).await;
    let AppendError::Unavailable(source) = late.unwrap_err() else { panic!("not unavailable") };
    assert!(matches!(source.downcast_ref(), Some(PgTransactionError::TimedOut { .. })), "{source:?}");
}

/// The limit of connecting is above the time for which the store waits for the answer of a statement.
#[tokio::test]
async fn a_transaction_waits_for_a_connection_up_to_the_limit_of_connecting() {
    let schema = TestSchema::new();
    schema.store().await.close().await;
    let config = PgEventStoreConfig { connect_timeout: Duration::from_secs(2), max_transactions: 1, ..schema.config() };
    let store = open(PgEventStoreConfig { statement_timeout: SHORT, ..config }).await;
    let first = store.begin_transaction().await.unwrap();
    let error = within(store.begin_transaction()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(sqlx::Error::PoolTimedOut)), "{error:?}");
    drop(first);
    within(store.begin_transaction()).await.unwrap();
}

#[tokio::test]
async fn a_begin_without_an_answer_keeps_no_connection() {
    let schema = TestSchema::new();
    schema.store().await.close().await;
    let proxy = Proxy::start().await;
    let config = PgEventStoreConfig {
        database_url: proxy.url(),
        notify: false,
        max_transactions: 1,
        connect_timeout: Duration::from_secs(2),
        statement_timeout: SHORT,
        // the server keeps the connection for longer than the test takes
        transaction_timeout: Duration::from_secs(3_600),
        ..schema.config()
    };
    let store = open(config).await;
    proxy.set(Answers::SwallowBegin);
    within(store.begin_transaction()).await.unwrap_err();
    within(async { while store.begin_transaction().await.is_err() {} }).await;
}

#[tokio::test]
async fn a_caller_who_gives_up_may_append_again() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { max_connections: 1, ..held.schema.config() }).await;
    let given = events(2);
    let stream = held.stream.clone();
    tokio::select! {
        appended = store.append(&stream, ExpectedVersion::Any, given.clone()) => panic!("{appended:?}"),
        _ = held.blocked() => {}
    }
    // the statement still runs, and its connection was the only one
    within(store.head()).await.unwrap();
    held.release().await;
    let appended = within(store.append(&stream, ExpectedVersion::Any, given.clone())).await.unwrap();
    held.is_stored_once(&given, &appended).await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_stores_nothing() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { statement_timeout: SHORT, ..held.schema.config() }).await;
    let given = events(2);
    let late = within(store.append(&held.stream, ExpectedVersion::Any, given.clone())).await;
    assert!(matches!(late, Err(AppendError::Unavailable(_))), "{late:?}");
    held.release().await;
    assert_eq!(read(&store, &held.stream).await.len(), 1);
    let appended = store.append(&held.stream, ExpectedVersion::Any, given.clone()).await.unwrap();
    held.is_stored_once(&given, &appended).await;
}

/// The limit of the URL is shorter than the one of a statement.
#[tokio::test]
async fn an_append_waits_for_a_row_as_long_as_for_a_statement() {
    let mut held = Held::new().await;
    let database_url = format!("{}?options[lock_timeout]=20ms", eventbus_test::postgres_url());
    let store = open(PgEventStoreConfig { database_url, statement_timeout: SHORT, ..held.schema.config() }).await;
    let given = events(2);
    let late = within(store.append(&held.stream, ExpectedVersion::Any, given.clone())).await;
    assert!(matches!(late, Err(AppendError::Unavailable(_))), "{late:?}");
    held.release().await;
    let appended = store.append(&held.stream, ExpectedVersion::Any, given.clone()).await.unwrap();
    held.is_stored_once(&given, &appended).await;
}

/// Checks that every operation fails with `Unavailable`, and soon.
async fn is_unavailable(store: &PgEventStore) {
    let begin = Instant::now();
    let name = Name::from_static("reader");
    let tagged = events(1).into_iter().map(|event| event.with_tags([Tag::new("trouble", &1).unwrap()])).collect();
    for events in [events(1), tagged] {
        let appended = within(store.append(&stream(), ExpectedVersion::Any, events)).await;
        assert!(matches!(appended, Err(AppendError::Unavailable(_))), "{appended:?}");
    }
    let version = within(store.stream_version(&stream())).await;
    assert!(matches!(version, Err(ReadError::Unavailable(_))), "{version:?}");
    let head = within(store.head()).await;
    assert!(matches!(head, Err(ReadError::Unavailable(_))), "{head:?}");
    let checkpoint = within(store.load_checkpoint(&name)).await;
    assert_eq!(checkpoint.unwrap_err().name, name);
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_store_without_a_free_connection_is_unavailable() {
    let mut held = Held::new().await;
    let store = open(PgEventStoreConfig { max_connections: 1, connect_timeout: SHORT, ..held.schema.config() }).await;
    let stream = held.stream.clone();
    let append = store.append(&stream, ExpectedVersion::Any, events(1));
    let look = async {
        held.blocked().await;
        is_unavailable(&store).await;
        held.release().await;
    };
    let (appended, ()) = within(async { tokio::join!(append, look) }).await;
    appended.unwrap();
    add(&store, &stream, 1).await;
}

#[tokio::test]
async fn a_store_whose_server_is_gone_is_unavailable() {
    let schema = TestSchema::new();
    let mut proxy = Proxy::start().await;
    let config = PgEventStoreConfig { database_url: proxy.url(), ..schema.config() };
    let store = open(PgEventStoreConfig { connect_timeout: SHORT, ..config }).await;
    proxy.refuse().await;
    is_unavailable(&store).await;
}

#[tokio::test]
async fn a_closed_store_is_unavailable_at_once() {
    let schema = TestSchema::new();
    // more than the time limit of `is_unavailable`
    let store = open(PgEventStoreConfig { connect_timeout: Duration::from_secs(3_600), ..schema.config() }).await;
    add(&store, &stream(), 1).await;
    within(store.close()).await;
    is_unavailable(&store).await;
}

#[tokio::test]
async fn an_append_that_ran_into_another_is_made_again() {
    let schema = TestSchema::new();
    let store = open(PgEventStoreConfig { connect_timeout: SHORT, ..schema.config() }).await;
    let sql = "CREATE SEQUENCE tries; CREATE TABLE failing (code text, tries bigint);
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') <= (SELECT tries FROM failing) THEN
                RAISE EXCEPTION USING ERRCODE = (SELECT code FROM failing);
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER failing BEFORE INSERT ON streams FOR EACH ROW EXECUTE FUNCTION fail();";
    let mut admin = schema.connection().await;
    let here = format!("ALTER FUNCTION fail() SET search_path TO {}", schema.name());
    run(&mut admin, &format!("{sql} {here}")).await;
    // a pooler may drop the store's settings, so that a statement waits for a row no longer than the role's limit
    for code in ["40001", "40P01", "55P03"] {
        let fail =
            format!("SELECT setval('tries', 1, false); DELETE FROM failing; INSERT INTO failing VALUES ('{code}', 3)");
        run(&mut admin, &fail).await;
        let stream = stream();
        let appended = within(store.append(&stream, ExpectedVersion::NoStream, events(2))).await.unwrap();
        assert_eq!(read(&store, &stream).await, appended);
        run(&mut admin, "UPDATE failing SET tries = 1000000").await;
        let given_up = within(store.append(&self::stream(), ExpectedVersion::Any, events(2))).await;
        assert!(matches!(given_up, Err(AppendError::Unavailable(_))), "{code}: {given_up:?}");
    }
}

#[tokio::test]
async fn what_a_trigger_refuses_is_refused_and_nothing_beside_it() {
    let schema = TestSchema::new();
    let store = schema.store().await;
    let sql = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.event_type = 'Forbidden' THEN RAISE EXCEPTION 'not on a Sunday'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse();";
    run(&mut schema.connection().await, sql).await;
    let append = async |event_type| {
        let event = NewEvent::new(Name::from_static(event_type), 1, "{}");
        store.append(&stream(), ExpectedVersion::NoStream, vec![event]).await
    };
    let allowed = futures_util::future::join_all((0..8).map(|_| append("Allowed")));
    let (refused, allowed) = within(async { tokio::join!(append("Forbidden"), allowed) }).await;
    let is_named =
        matches!(&refused, Err(AppendError::Refused { source, .. }) if source.to_string().contains("a Sunday"));
    assert!(is_named, "{refused:?}");
    assert!(allowed.iter().all(Result::is_ok), "{allowed:?}");
}

/// The first stored event from now on makes its transaction use a second server, which the rollback notifies
/// before it releases its locks.
const SLOW_ROLLBACK: &str = "CREATE EXTENSION postgres_fdw; CREATE TABLE near (id int); CREATE SEQUENCE stored;
    CREATE SERVER second FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port 'PORT', dbname 'DATABASE');
    CREATE USER MAPPING FOR CURRENT_USER SERVER second OPTIONS (user 'ROLE');
    CREATE FOREIGN TABLE far (id int) SERVER second OPTIONS (schema_name 'public', table_name 'near');
    CREATE FUNCTION look_far() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('stored') = 1 THEN PERFORM FROM far; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER slow_rollback BEFORE INSERT ON eventbus.events FOR EACH ROW EXECUTE FUNCTION look_far();";

/// The server sends the error of a statement before it rolls back, and until then the feed ends before the positions
/// that the statement drew.
#[tokio::test]
async fn what_is_appended_after_an_error_is_in_the_feed_at_once() {
    let server = eventbus_test::private_postgres();
    let proxy = Proxy::start_for(server.url()).await;
    let store = open(PgEventStoreConfig { database_url: server.url().into(), ..Default::default() }).await;
    let (one, two) = (stream(), stream());
    let given = events(1);
    let first = store.append(&one, ExpectedVersion::Any, given.clone()).await.unwrap();
    let options: PgConnectOptions = server.url().parse().unwrap();
    let slow = SLOW_ROLLBACK
        .replace("PORT", &proxy.port().to_string())
        .replace("DATABASE", options.get_database().unwrap_or("postgres"))
        .replace("ROLE", options.get_username());
    run(&mut connect(server.url()).await, &slow).await;
    proxy.set(Answers::Delay);

    let repeat = Append { stream: one, expected: ExpectedVersion::Any, events: given };
    let fresh = Append { stream: two, expected: ExpectedVersion::NoStream, events: events(1) };
    let appended = within(store.append_many(vec![repeat, fresh])).await;
    let appended: Vec<_> = appended.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(appended[0], first[0]);
    assert_eq!(feed(&store).await, appended);
}

/// The next use of a connection that was idle for a while begins with a ping.
#[tokio::test]
async fn a_connection_that_died_in_silence_is_replaced_at_once() {
    let schema = TestSchema::new();
    let proxy = Proxy::start().await;
    let config = PgEventStoreConfig { database_url: proxy.url(), notify: false, ..schema.config() };
    let store = open(PgEventStoreConfig { max_connections: 1, max_transactions: 1, ..config }).await;
    store.head().await.unwrap();
    store.begin_transaction().await.unwrap().commit().await.unwrap();
    // the connections age
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    proxy.set(Answers::SwallowOne);
    within(store.head()).await.unwrap();
    proxy.set(Answers::SwallowOne);
    within(store.begin_transaction()).await.unwrap();
}

/// A pooler may change the server beneath an open connection, here a function that has the server's answer.
#[tokio::test]
async fn a_standby_that_took_the_place_of_the_primary_is_unavailable() {
    let (schema, pooler) = (TestSchema::new(), TestSchema::new());
    let name = pooler.name();
    let mut admin = connect(eventbus_test::postgres_url()).await;
    let sql = "CREATE SCHEMA pooler; CREATE TABLE pooler.server (is_standby boolean);
        INSERT INTO pooler.server VALUES (false);
        CREATE FUNCTION pooler.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT is_standby FROM pooler.server'";
    run(&mut admin, &sql.replace("pooler", name)).await;
    let database_url = format!("{}?options[search_path]={name},pg_catalog", eventbus_test::postgres_url());
    let store = open(PgEventStoreConfig { database_url, ..schema.config() }).await;
    add(&store, &stream(), 1).await;
    for is_standby in [false, true, false] {
        run(&mut admin, &format!("UPDATE {name}.server SET is_standby = {is_standby}")).await;
        let head = store.head().await;
        assert_eq!(matches!(head, Err(ReadError::Unavailable(_))), is_standby, "{head:?}");
        assert_eq!(head.is_ok(), !is_standby);
    }
}

/// The proxy lets 64 KiB pass in 100 ms: all events take longer than a statement may, and some of them do not.
#[tokio::test]
async fn large_events_arrive_over_a_slow_line() {
    const EVENTS: usize = 12;
    let schema = TestSchema::new();
    let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(400_000));
    let large = (0..EVENTS).map(|_| NewEvent::new(Name::from_static("Deposited"), 1, payload.clone())).collect();
    let stored = schema.store().await.append(&stream(), ExpectedVersion::Any, large).await.unwrap();
    let proxy = Proxy::start().await;
    let config = PgEventStoreConfig { database_url: proxy.url(), notify: false, ..schema.config() };
    let store = open(PgEventStoreConfig { statement_timeout: Duration::from_secs(2), ..config }).await;
    proxy.set(Answers::Delay);
    let (all, of_type) = (FeedFilter::all(), FeedFilter::all().event_types([Name::from_static("Deposited")]));
    let mut visited = Vec::new();
    let mut visit = |event: VisitedFeedEvent<'_>| {
        visited.push((event.position, event.fields.payload.len()));
        ControlFlow::Continue(())
    };
    let (start, end) = (Position::START, stored[EVENTS - 1].position().unwrap());
    let reads = async {
        tokio::join!(
            store.read_feed(start, end, &all).try_collect::<Vec<_>>(),
            store.read_feed(start, end, &of_type).try_collect::<Vec<_>>(),
            store.visit_feed(start, end, &of_type, &mut visit),
        )
    };
    let (all, of_type, all_visited) = within(reads).await;
    all_visited.unwrap();
    let sizes = |events: &[RecordedEvent]| -> Vec<_> {
        events.iter().map(|event| (event.position().unwrap(), event.payload().len())).collect()
    };
    for found in [sizes(&all.unwrap()), sizes(&of_type.unwrap()), visited] {
        assert_eq!(found, sizes(&stored));
    }
}

#[tokio::test]
async fn what_the_server_cannot_keep_is_refused() {
    let schema = TestSchema::new();
    let store = open(schema.config()).await;
    let actor = EventContext::default().with_actor("a\0b");
    for bad in [
        event().with_context(actor),
        NewEvent::new(Name::from_static("Deposited"), u32::MAX, "{}"),
        NewEvent::new(Name::from_static("Deposited"), 0, "{}"),
    ] {
        let refused = store.append(&stream(), ExpectedVersion::Any, vec![event(), bad]).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, AppendError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    }
    assert_eq!(feed(&store).await, []);
}

/// Fails if the error names only the pool that has waited: the cause is not its size.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_of_a_server_that_is_away_says_that_it_refuses_connections() {
    let mut server = eventbus_test::private_postgres();
    let connect_timeout = Duration::from_secs(1);
    let config = PgEventStoreConfig { database_url: server.url().into(), connect_timeout, ..Default::default() };
    let store = open(config).await;
    server.stop();
    let chain = |error: BoxError| source_chain(&*error).map(|error| error.to_string()).collect::<Vec<_>>().join(": ");
    let wanted = "no connection to PostgreSQL: error communicating with database: Connection refused";
    // a connection that was open fails with an error of its own, and a busy machine may find no cause in time
    within(async {
        while !chain(store.head().await.unwrap_err().into()).contains(wanted) {}
        while !chain(store.begin_transaction().await.unwrap_err()).contains(wanted) {}
    })
    .await;
}

/// Fails if a statement is sent over a connection that may be as dead as the last one: its outcome would be unknown.
#[tokio::test(flavor = "multi_thread")]
async fn once_a_statement_has_found_the_server_away_the_outcome_of_appends_is_known() {
    let mut server = eventbus_test::private_postgres();
    let connect_timeout = Duration::from_secs(1);
    let config = PgEventStoreConfig { database_url: server.url().into(), connect_timeout, ..Default::default() };
    let store = open(config).await;
    // several connections at once, all of them unused afterwards
    for head in futures_util::future::join_all((0..6).map(|_| store.head())).await {
        head.unwrap();
    }
    server.stop();
    store.head().await.unwrap_err();
    let error = store.append(&stream(), ExpectedVersion::Any, vec![event()]).await.unwrap_err();
    assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
}

/// While the server is away, an append waits for a connection once, with and without unique values; a tag that is added
/// likewise; also one whose statement had been sent when the connection broke.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_server_that_is_away_ends_after_the_time_to_connect() {
    let connect_timeout = Duration::from_secs(4);
    let mut server = eventbus_test::private_postgres();
    let config = PgEventStoreConfig { database_url: server.url().into(), connect_timeout, ..Default::default() };
    let change = UniqueChange::new(Name::from_static("email"), Some("ada@example.org".into())).unwrap();
    let mut stores = Vec::new();
    // an event to append, or none: a tag
    for appended in [Some(event()), Some(event().with_unique(vec![change])), None] {
        let store = open(config.clone()).await;
        let stored = add(&store, &stream(), 1).await.remove(0);
        stores.push((store, stored, appended));
    }
    server.stop();
    let tag = Tag::from_stored("course:1").unwrap();
    let attempts = stores.iter().map(async |(store, stored, appended)| {
        for attempt in 1..=2 {
            let appending = async {
                match appended {
                    Some(event) => store.append(&stream(), ExpectedVersion::Any, vec![event.clone()]).await.map(drop),
                    None => store.boundaries().unwrap().add_tag(stored, &tag).await.map(drop),
                }
            };
            let ended = tokio::time::timeout(connect_timeout * 7 / 4, appending).await;
            let error = ended.unwrap_or_else(|_| panic!("attempt {attempt} waits twice: {appended:?}")).unwrap_err();
            assert!(attempt == 1 || matches!(error, AppendError::Unavailable(_)), "{error:?}");
        }
    });
    futures_util::future::join_all(attempts).await;
}
