//! Connecting: refusals and their errors, migrations, separate schemas.

use std::time::{Duration, Instant};

use crate::common::{TestDatabase, TestSchema, add, connect, event, feed, open, run, stream, within};
use eventbus::{
    ExpectedVersion, Name, Position,
    port::{AppendEvents as _, Checkpoints as _, ReadFeed as _},
};
use eventstore_postgres::{PgConnectError, PgEventStore, PgEventStoreConfig};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::net::TcpListener;

async fn refused(config: PgEventStoreConfig) -> PgConnectError {
    let connected = within(PgEventStore::connect_with(config)).await;
    let error = connected.expect_err("it connected");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("secret"), "the password is shown: {shown}");
    error
}

#[tokio::test]
async fn a_url_that_is_none_is_refused() {
    for url in [
        "",
        "secret",
        "mysql://u:secret@localhost/db",
        "postgres://u:secret@localhost:port/db",
        "postgres://u:secret@localhost/db?sslmode=perhaps",
    ] {
        let error = PgEventStore::connect(url).await.unwrap_err();
        assert!(matches!(error, PgConnectError::InvalidUrl { .. }), "{url}: {error:?}");
        assert!(!error.is_retryable());
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() {
    let good = PgEventStoreConfig::default;
    for (config, field) in [
        (PgEventStoreConfig { max_connections: 0, ..good() }, "max_connections"),
        (PgEventStoreConfig { connect_timeout: Duration::ZERO, ..good() }, "connect_timeout"),
        (PgEventStoreConfig { statement_timeout: Duration::ZERO, ..good() }, "statement_timeout"),
    ] {
        match refused(config).await {
            PgConnectError::InvalidConfig { field: named, .. } => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    for schema in ["", "Orders", "a b", "x\"; DROP SCHEMA public; --", "pg_events"] {
        let error = refused(PgEventStoreConfig { schema: schema.into(), ..good() }).await;
        assert!(matches!(error, PgConnectError::InvalidSchema { .. }), "{schema}: {error:?}");
        assert!(PgEventStore::migrations_sql(schema).is_err());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let port = eventbus_test::internal::closed_port();
    let error = refused(PgEventStoreConfig {
        database_url: format!("postgres://u:secret@127.0.0.1:{port}/db"),
        ..Default::default()
    })
    .await;
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&format!("postgres://u@127.0.0.1:{port}/db")), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_unreachable_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let begin = Instant::now();
    let error = refused(PgEventStoreConfig {
        database_url: format!("postgres://u:secret@127.0.0.1:{port}/db"),
        connect_timeout: Duration::from_millis(200),
        ..Default::default()
    })
    .await;
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused() {
    let name = eventbus_test::unique_name("missing");
    let url = eventbus_test::database_url_for(&name);
    let error = PgEventStore::connect(url).await.unwrap_err();
    assert!(matches!(error, PgConnectError::Refused { .. }), "{error:?}");
    assert!(!error.is_retryable());
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(said, format!("database \"{name}\" does not exist"), "and no line of the server's source");
}

#[tokio::test]
async fn a_connected_store_does_not_show_the_password() {
    let schema = TestSchema::new();
    let mut config = schema.config();
    config.database_url.push_str("?password=secret");
    let shown = format!("{config:?} {:?}", open(config.clone()).await);
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_connect_at_once() {
    let schema = TestSchema::new();
    let all: tokio::task::JoinSet<_> = (0..8).map(|_| open(schema.config())).collect();
    let stores = within(all.join_all()).await;
    for store in &stores {
        add(store, &stream(), 1).await;
    }
    assert_eq!(feed(&stores[0]).await.len(), 8);
}

#[tokio::test]
async fn numbers_and_times_that_no_server_can_keep_are_refused() {
    let schema = TestSchema::new();
    let config = || schema.config();
    for (field, config) in [
        ("max_connections", PgEventStoreConfig { max_connections: u32::MAX, ..config() }),
        ("append_queue", PgEventStoreConfig { append_queue: u32::MAX, ..config() }),
        ("max_transactions", PgEventStoreConfig { max_transactions: u32::MAX, ..config() }),
        ("connect_timeout", PgEventStoreConfig { connect_timeout: Duration::MAX, ..config() }),
        ("migration_timeout", PgEventStoreConfig { migration_timeout: Duration::MAX, ..config() }),
        ("statement_timeout", PgEventStoreConfig { statement_timeout: Duration::MAX, ..config() }),
        ("transaction_timeout", PgEventStoreConfig { transaction_timeout: Duration::MAX, ..config() }),
    ] {
        match refused(config).await {
            PgConnectError::InvalidConfig { field: named, .. } => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    // the largest values allowed
    let longest = Duration::from_millis(i32::MAX.unsigned_abs().into());
    let largest = PgEventStoreConfig {
        max_connections: 262_143,
        append_queue: 262_143,
        max_transactions: 262_143,
        connect_timeout: longest,
        migration_timeout: longest,
        statement_timeout: longest,
        transaction_timeout: longest,
        ..config()
    };
    add(&open(largest).await, &stream(), 1).await;
}

#[tokio::test]
async fn a_mistyped_parameter_of_the_url_is_refused() {
    let url = format!("{}?ssl_mode=verify-full", eventbus_test::postgres_url());
    let error = refused(PgEventStoreConfig { database_url: url, ..Default::default() }).await;
    let said = "the database URL has a parameter `ssl_mode` that is not known; write `sslmode`";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn tables_are_not_made_unless_wanted() {
    let schema = TestSchema::new();
    let by_hand = PgEventStoreConfig { migrate: false, ..schema.config() };
    match refused(by_hand.clone()).await {
        PgConnectError::NotMigrated { found: 0, needed, schema } => {
            assert_eq!((needed, schema), (crate::common::migrations(), by_hand.schema.clone()));
        }
        other => panic!("{other:?}"),
    }
    PgEventStore::migrate(&by_hand).await.unwrap();
    PgEventStore::migrate(&by_hand).await.unwrap();
    add(&open(by_hand).await, &stream(), 1).await;
}

#[tokio::test]
async fn an_administrator_may_make_the_tables() {
    let schema = TestSchema::new();
    let by_hand = PgEventStoreConfig { migrate: false, ..schema.config() };
    let sql = PgEventStore::migrations_sql(&by_hand.schema).unwrap();
    let mut admin = connect(eventbus_test::postgres_url()).await;
    for _ in 0..2 {
        run(&mut admin, &sql).await;
        add(&open(by_hand.clone()).await, &stream(), 1).await;
    }
    add(&open(schema.config()).await, &stream(), 1).await;
    assert_eq!(feed(&open(by_hand).await).await.len(), 3);
}

#[tokio::test]
async fn a_role_without_rights_to_create_can_use_the_tables() {
    let schema = TestSchema::new();
    let name = schema.config().schema;
    PgEventStore::migrate(&schema.config()).await.unwrap();
    let mut admin = schema.connection().await;
    let sql = format!(
        "CREATE ROLE {name} LOGIN; GRANT USAGE ON SCHEMA {name} TO {name};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {name} TO {name};
         GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA {name} TO {name}"
    );
    run(&mut admin, &sql).await;
    let mut config = schema.config();
    // a start option sets the role, so that the login stays that of the tests
    config.database_url.push_str(&format!("?options[role]={name}"));
    let store = open(config).await;
    add(&store, &stream(), 1).await;
    store.save_checkpoint(&Name::from_static("reader"), Position::new(1)).await.unwrap();
    assert_eq!(feed(&store).await.len(), 1);
    store.close().await;
    run(&mut admin, &format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
}

#[tokio::test]
async fn tables_of_a_newer_release_are_refused_from_its_first_breaking_migration_on() {
    let schema = TestSchema::new();
    PgEventStore::migrate(&schema.config()).await.unwrap();
    let mut admin = schema.connection().await;
    let applied = async |admin: &mut _, version: u32, kind: &str| {
        let sql =
            format!("INSERT INTO migrations (version, name, kind) VALUES ({version}, 'future {version}', '{kind}')");
        run(admin, &sql).await;
    };
    applied(&mut admin, 97, "additive").await;
    for migrate in [true, false] {
        let store = open(PgEventStoreConfig { migrate, ..schema.config() }).await;
        add(&store, &stream(), 1).await;
    }
    assert_eq!(feed(&open(schema.config()).await).await.len(), 2);

    applied(&mut admin, 99, "breaking").await;
    applied(&mut admin, 98, "of a kind that is not known yet").await;
    for migrate in [true, false] {
        let error = refused(PgEventStoreConfig { migrate, ..schema.config() }).await;
        let said = format!(
            "schema `{}` has the breaking migration 98 `future 98`, this release knows migrations up to {}: upgrade \
             eventstore-postgres",
            schema.name(),
            crate::common::migrations()
        );
        assert_eq!(error.to_string(), said);
        let PgConnectError::SchemaTooNew { breaking, known, .. } = error else { panic!("{error:?}") };
        assert_eq!((breaking, known), (98, crate::common::migrations()));
    }
}

/// The tables as they were made before the first release, as far as they tell the layout.
const OLD_TABLES: &str = "
    CREATE TABLE migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz DEFAULT now());
    CREATE TABLE events (position bigint PRIMARY KEY, data json NOT NULL, metadata json);
    INSERT INTO migrations (version, name) VALUES (1, 'events'), (6, 'event types')";

#[tokio::test]
async fn tables_of_an_older_layout_are_refused_and_kept() {
    let tables_of_others = "CREATE TABLE migrations (id text, batch integer)";
    for (tables, found) in [
        (OLD_TABLES, "its newest migration is 6 `event types`"),
        (tables_of_others, "the columns of its table `migrations` are id, batch"),
    ] {
        let schema = TestSchema::new();
        let mut admin = connect(eventbus_test::postgres_url()).await;
        let name = schema.name();
        run(&mut admin, &format!("CREATE SCHEMA {name}; SET search_path TO {name}; {tables}")).await;
        let before: i64 = sqlx::query_scalar(TABLES).bind(name).fetch_one(&mut admin).await.unwrap();
        for migrate in [true, false] {
            let error = refused(PgEventStoreConfig { migrate, ..schema.config() }).await;
            assert!(matches!(error, PgConnectError::OldLayout { .. }), "{error:?}");
            assert!(!error.is_retryable());
            let said = error.to_string();
            for part in [name, found, "before the first release", "export", "start with a new schema"] {
                assert!(said.contains(part), "{said}");
            }
        }
        // nor does the script of an administrator change them
        let script = PgEventStore::migrations_sql(name).unwrap();
        let refused = admin.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.unwrap_err();
        assert!(refused.as_database_error().is_some(), "{refused}");
        run(&mut admin, "ROLLBACK").await;
        let after: i64 = sqlx::query_scalar(TABLES).bind(name).fetch_one(&mut admin).await.unwrap();
        assert_eq!(after, before);
    }
}

const TABLES: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1";

#[tokio::test]
async fn two_schemas_in_one_database_are_two_stores() {
    let database = TestDatabase::create("").await;
    let one = open(database.config()).await;
    let two = open(PgEventStoreConfig { schema: "other".into(), ..database.config() }).await;
    let (stream, name) = (stream(), Name::from_static("reader"));
    add(&two, &crate::common::stream(), 5).await;
    let events = vec![event()];
    let new = ExpectedVersion::NoStream;
    let in_one = one.append(&stream, new, events.clone()).await.unwrap();
    let in_two = two.append(&stream, new, events).await.unwrap();
    assert_eq!(feed(&one).await, in_one);
    assert_eq!(feed(&two).await[5..], in_two);
    one.save_checkpoint(&name, Position::new(7)).await.unwrap();
    assert_eq!(two.load_checkpoint(&name).await.unwrap(), None);

    // an open append in one schema, at a lower position, does not hold the feed of the other
    let mut holder = database.connection().await;
    run(&mut holder, "BEGIN; SELECT 1 FROM streams FOR UPDATE").await;
    let mut watcher = database.connection().await;
    let blocked = one.append(&stream, ExpectedVersion::Any, crate::common::events(1));
    let look = async {
        crate::common::blocked_backend(&mut watcher, "eventbus").await;
        let head = (one.head().await.unwrap(), two.head().await.unwrap());
        add(&two, &crate::common::stream(), 1).await;
        assert_eq!(feed(&two).await.len(), 7);
        run(&mut holder, "ROLLBACK").await;
        head
    };
    let (appended, head) = tokio::join!(blocked, look);
    assert_eq!(appended.unwrap()[0].position(), Some(Position::new(2)));
    assert_eq!(head, (Position::new(1), Position::new(6)));
}
