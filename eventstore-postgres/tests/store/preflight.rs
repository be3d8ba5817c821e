//! A server or database with wrong settings: the error names the setting and the repair; each fault is a real one.

use std::time::Duration;

use crate::common::{TestDatabase, add, connect, event, events, feed, open, run, stream, within};
use eventbus::{ExpectedVersion, event::Tag, port::AppendEvents as _};
use eventstore_postgres::{PgConnectError, PgEventStore, PgEventStoreConfig, PgPrecondition};

async fn fault(database: &TestDatabase) -> PgPrecondition {
    fault_with(database.config()).await
}

async fn fault_with(config: PgEventStoreConfig) -> PgPrecondition {
    match PgEventStore::connect_with(config).await {
        Err(PgConnectError::Precondition { fault, server }) => {
            let error = PgConnectError::Precondition { fault: fault.clone(), server };
            assert!(error.to_string().contains(&fault.repair()), "{error}");
            assert!(!error.is_retryable());
            fault
        }
        Err(other) => panic!("refused for another reason: {other:?}"),
        Ok(_) => panic!("it connected"),
    }
}

/// Appends events with a tag of their own to a new stream.
async fn add_tagged(store: &PgEventStore, number: usize, tag: u32) {
    let tag = Tag::new("course", &tag).unwrap();
    let tagged = events(number).into_iter().map(|event| event.with_tags([tag.clone()])).collect();
    store.append(&stream(), ExpectedVersion::NoStream, tagged).await.unwrap();
}

/// Breaks a sequence, then repairs it with the exact text of the repair.
async fn sequence_fault(sql: &str) -> PgPrecondition {
    let database = TestDatabase::create("").await;
    add_tagged(&open(database.config()).await, 5, 1).await;
    let mut admin = database.connection().await;
    run(&mut admin, sql).await;
    let fault = fault(&database).await;
    let repair = fault.repair();
    run(&mut admin, repair.trim_start_matches("stop all writers, then ")).await;
    let store = open(database.config()).await;
    add_tagged(&store, 1, 2).await;
    assert_eq!(feed(&store).await.len(), 6);
    fault
}

#[tokio::test]
async fn a_sequence_that_caches_is_refused() {
    let fault = sequence_fault("ALTER SEQUENCE events_position_seq CACHE 50").await;
    assert!(matches!(fault, PgPrecondition::SequenceSettings { cache: 50, .. }), "{fault:?}");
}

#[tokio::test]
async fn a_sequence_of_another_step_is_refused() {
    let fault = sequence_fault("ALTER SEQUENCE events_position_seq INCREMENT 2").await;
    assert!(matches!(fault, PgPrecondition::SequenceSettings { increment: 2, .. }), "{fault:?}");
}

#[tokio::test]
async fn a_sequence_that_begins_anew_is_refused() {
    let fault = sequence_fault("ALTER SEQUENCE events_position_seq CYCLE").await;
    assert!(matches!(fault, PgPrecondition::SequenceSettings { cycle: true, .. }), "{fault:?}");
}

#[tokio::test]
async fn a_sequence_behind_the_events_is_refused() {
    let fault = sequence_fault("SELECT setval('events_position_seq', 3)").await;
    assert!(matches!(fault, PgPrecondition::SequenceBehind { drawn: 3, stored: 5, .. }), "{fault:?}");
    let fault = sequence_fault("SELECT setval('events_position_seq', 5, false)").await;
    assert!(matches!(fault, PgPrecondition::SequenceBehind { drawn: 0, .. }), "{fault:?}");
}

#[tokio::test]
async fn sequences_behind_the_streams_or_the_tags_are_refused() {
    for name in ["streams_stream_no_seq", "tags_tag_no_seq"] {
        let fault = sequence_fault(&format!("SELECT setval('{name}', 1, false)")).await;
        let PgPrecondition::SequenceBehind { sequence, drawn: 0, stored: 1 } = &fault else { panic!("{fault:?}") };
        assert_eq!(*sequence, format!("\"eventbus\".{name}"));
    }
}

/// Newer servers show the role no number, as if the sequence had drawn none.
#[tokio::test]
async fn a_role_that_may_not_read_a_sequence_is_refused() {
    let database = TestDatabase::create("").await;
    add_tagged(&open(database.config()).await, 1, 1).await;
    let (mut admin, role) = (database.connection().await, database.name());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA eventbus TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA eventbus TO {role};
         GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA eventbus TO {role}"
    );
    run(&mut admin, &grants).await;
    // a start option sets the role, so that the login stays that of the tests
    let database_url = format!("{}?options[role]={role}", database.url());
    let config = PgEventStoreConfig { database_url, migrate: false, ..database.config() };
    for name in ["events_position_seq", "streams_stream_no_seq", "tags_tag_no_seq"] {
        run(&mut admin, &format!("REVOKE ALL ON SEQUENCE {name} FROM {role}")).await;
        let fault = fault_with(config.clone()).await;
        assert_eq!(fault, PgPrecondition::SequenceHidden { sequence: format!("\"eventbus\".{name}") });
        run(&mut admin, &fault.repair().replace('…', role)).await;
        let store = open(config.clone()).await;
        assert_eq!(feed(&store).await.len(), 1);
        store.close().await;
    }
    run(&mut admin, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_commit_that_does_not_wait_is_refused() {
    let database = TestDatabase::create("").await;
    let mut admin = database.connection().await;
    let name = database.name();
    run(&mut admin, &format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    assert_eq!(fault(&database).await, PgPrecondition::SynchronousCommitOff);
    let tables = "SELECT count(*) FROM pg_namespace WHERE nspname = 'eventbus'";
    let made: i64 = sqlx::query_scalar(tables).fetch_one(&mut admin).await.unwrap();
    assert_eq!(made, 0, "tables were made although the server was refused");
    run(&mut admin, &format!("ALTER DATABASE {name} SET synchronous_commit = local")).await;
    open(database.config()).await;
}

#[tokio::test]
async fn a_url_that_switches_waiting_off_is_refused() {
    let database = TestDatabase::create("").await;
    let url = format!("{}?options[synchronous_commit]=off", database.url());
    let error = PgEventStore::connect(url).await.unwrap_err();
    let PgConnectError::Precondition { fault, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(fault, PgPrecondition::SynchronousCommitOff);
}

#[tokio::test]
async fn a_read_only_database_is_refused() {
    let database = TestDatabase::create("").await;
    let mut admin = database.connection().await;
    let name = database.name();
    run(&mut admin, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    assert_eq!(fault(&database).await, PgPrecondition::ReadOnly);
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused() {
    let options = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    let database = TestDatabase::create(options).await;
    let encoding = "LATIN1".into();
    assert_eq!(fault(&database).await, PgPrecondition::Encoding { encoding });
}

/// Each connection sets the level; here the database has a setting that would otherwise apply.
#[tokio::test]
async fn a_database_of_another_isolation_serves_all_the_same() {
    let database = TestDatabase::create("").await;
    let mut admin = database.connection().await;
    let name = database.name();
    run(&mut admin, &format!("ALTER DATABASE {name} SET default_transaction_isolation = serializable")).await;
    let store = open(database.config()).await;
    add(&store, &stream(), 3).await;
    assert_eq!(feed(&store).await.len(), 3);
}

#[tokio::test]
async fn an_append_that_stays_open_is_named() {
    let database = TestDatabase::create("").await;
    let store = open(database.config()).await;
    assert_eq!(store.oldest_append().await.unwrap(), None);
    let mut admin = database.connection().await;
    run(&mut admin, "SET application_name = 'forgetful'; BEGIN").await;
    store.append_in(&mut admin, &stream(), ExpectedVersion::Any, vec![event()]).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut admin).await.unwrap();
    let older = async {
        loop {
            let open = store.oldest_append().await.unwrap().unwrap();
            assert_eq!((open.pid, &*open.application_name), (Some(pid), "forgetful"));
            if open.age.unwrap() > Duration::from_millis(50) {
                return;
            }
        }
    };
    within(older).await;
    let mut foreign = database.connection().await;
    run(&mut foreign, "BEGIN; SELECT pg_advisory_xact_lock_shared(1)").await;
    run(&mut admin, "ROLLBACK").await;
    assert_eq!(store.oldest_append().await.unwrap(), None);
}

#[tokio::test]
async fn an_append_in_a_prepared_transaction_is_named_too() {
    let server = eventbus_test::private_postgres_with(&["-c", "max_prepared_transactions=2"]);
    let store = PgEventStore::connect(server.url()).await.unwrap();
    let mut admin = connect(server.url()).await;
    run(&mut admin, "BEGIN").await;
    store.append_in(&mut admin, &stream(), ExpectedVersion::Any, vec![event()]).await.unwrap();
    run(&mut admin, "PREPARE TRANSACTION 'forgotten'").await;
    let open = store.oldest_append().await.unwrap().unwrap();
    assert_eq!((open.pid, &*open.application_name), (None, ""));
    assert!(open.age.unwrap() > Duration::ZERO && !open.has_hidden, "{open:?}");
    run(&mut admin, "ROLLBACK PREPARED 'forgotten'").await;
    assert_eq!(store.oldest_append().await.unwrap(), None);
}
