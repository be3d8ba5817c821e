//! The statements of the chapters on moving make lines of the tables of other frameworks that `import --foreign` reads.
//!
//! The tables and rows are those of the frameworks, of the versions that the chapters name. What the Python library itself
//! writes is compared by the tests of the workspace that run it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use eventbus::{
    Position,
    prelude::*,
    store::{FeedFilter, ReadFeed as _},
};
use eventstore_postgres::{
    PgConnection,
    sqlx::{self, AssertSqlSafe, Connection as _},
};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;
use guide::bank::Account;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Returns the blocks of a language in a chapter.
fn blocks(chapter: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/moving").join(chapter);
    let text = fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Runs the statement of a chapter on tables that `tables` makes, and returns its lines.
async fn lines(chapter: &str, tables: &str) -> Vec<String> {
    let database = eventbus_test::postgres();
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(tables.to_owned())).execute(&mut connection).await.unwrap();
    let statement = blocks(chapter, "sql").remove(0);
    let rows = sqlx::query_scalar::<_, Value>(AssertSqlSafe(statement.trim_end().trim_end_matches(';').to_owned()));
    rows.fetch_all(&mut connection).await.unwrap().iter().map(Value::to_string).collect()
}

/// Imports lines by the command, twice, into a new store; its file is removed with the folder.
async fn import(lines: &[String]) -> (SqliteEventStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (file, database) = (folder.path().join("events.jsonl"), folder.path().join("new.db"));
    fs::write(&file, lines.join("\n")).unwrap();
    let (command, url) = (folder.path().join("eventbus"), format!("sqlite:{}", database.display()));
    symlink(env!("CARGO_BIN_EXE_bank"), &command).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&command).args(["--store", &url, "--yes"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run(&["migrate"]);
    for _ in 0..2 {
        run(&["import", "--foreign", &file.display().to_string()]);
    }
    let store = SqliteEventStore::connect(&url).await.unwrap();
    let head = store.head().await.unwrap();
    let stored: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    assert_eq!(stored.len(), lines.len(), "each event once");
    (store, folder)
}

async fn balance(store: &SqliteEventStore, id: &str) -> (i64, u64) {
    let account = AggregateRepository::<Account>::new(store.clone()).load(&id.parse().unwrap()).await.unwrap();
    (account.balance, account.version().get())
}

#[tokio::test]
async fn the_line_of_the_overview_is_imported() {
    let example = blocks("overview.md", "json").remove(0);
    let (store, _folder) = import(&[example.trim_end().to_owned()]).await;
    assert_eq!(balance(&store, "ada").await, (0, 1));
}

#[tokio::test]
async fn the_events_of_cqrs_es_are_imported() {
    let tables = r#"
        CREATE TABLE events (
            aggregate_type text NOT NULL, aggregate_id text NOT NULL, sequence bigint CHECK (sequence >= 0) NOT NULL,
            event_type text NOT NULL, event_version text NOT NULL, payload json NOT NULL, metadata json NOT NULL,
            PRIMARY KEY (aggregate_type, aggregate_id, sequence));
        INSERT INTO events VALUES
            ('Account', 'bob', 1, 'Opened', '1.0', '{"Opened":{"owner":"Bob"}}', '{"time":"2026-01-02T00:00:00Z"}'),
            ('Account', 'ada', 2, 'Deposited', '1.0', '{"Deposited":{"cents":120}}', '{"time":"2026-01-03T00:00:00Z"}'),
            ('Account', 'ada', 1, 'Opened', '1.0', '{"Opened":{"owner":"Ada"}}', '{"time":"2026-01-01T00:00:00Z"}'),
            ('Account', 'ada', 3, 'Closed', '2.1', '"Closed"', '{"time":"2026-01-04T00:00:00Z"}')"#;
    let lines = lines("cqrs-es.md", tables).await;
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let order: Vec<_> = events.iter().map(|event| (&event["aggregate_id"], &event["version"])).collect();
    let (ada, bob) = (json!("ada"), json!("bob"));
    assert_eq!(order, [(&ada, &json!(1)), (&bob, &json!(1)), (&ada, &json!(2)), (&ada, &json!(3))]);
    assert_eq!((&events[3]["fields"], &events[3]["schema_version"]), (&json!({}), &json!(2)));
    let (store, _folder) = import(&lines[..3]).await;
    assert_eq!(balance(&store, "ada").await, (120, 2));
}

#[tokio::test]
async fn the_events_of_disintegrate_are_imported() {
    let tables = r#"
        CREATE TABLE event (
            event_id bigint PRIMARY KEY, event_type varchar(255), payload bytea, inserted_at timestamp DEFAULT now());
        INSERT INTO event VALUES
            (3, 'CourseDefined', '{"CourseDefined":{"course":"rust","seats":2}}', '2026-01-01 00:00'),
            (5, 'Enrolled', '{"Enrolled":{"course":"rust","student":"ada"}}', '2026-01-02 00:00'),
            (6, 'Enrolled', '{"Enrolled":{"course":"sql","student":"bob"}}', '2026-01-03 00:00'),
            (9, 'Enrolled', '{"Enrolled":{"course":"rust","student":"bob"}}', '2026-01-04 00:00')"#;
    let lines = lines("disintegrate.md", tables).await;
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<_> = events
        .iter()
        .map(|event| {
            format!("{}-{} {}", event["aggregate_type"], event["aggregate_id"], event["version"]).replace('"', "")
        })
        .collect();
    assert_eq!(places, ["Course-rust 1", "Enrolment-rust 1", "Enrolment-sql 1", "Enrolment-rust 2"]);
    assert_eq!(events[3]["fields"], json!({ "course": "rust", "student": "bob" }));
    import(&lines).await;
}

#[tokio::test]
async fn the_events_of_eventsource_py_are_imported() {
    let tables = r#"
        CREATE TABLE events (
            global_position bigserial PRIMARY KEY, event_id uuid NOT NULL UNIQUE, aggregate_id uuid NOT NULL,
            aggregate_type varchar(255) NOT NULL, event_type varchar(255) NOT NULL, tenant_id uuid, actor_id varchar(255),
            version integer NOT NULL, timestamp timestamptz NOT NULL, payload jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (aggregate_id, aggregate_type, version));
        INSERT INTO events (event_id, aggregate_id, aggregate_type, event_type, actor_id, version, timestamp, payload)
        SELECT event_id, '00000000-0000-0000-0000-000000000064', 'Account', type, 'zoë', version, '2026-01-02 03:04:05.67+02',
               jsonb_build_object('event_id', event_id, 'event_type', type, 'event_version', 1, 'occurred_at', 'x',
                   'aggregate_id', 'x', 'aggregate_type', 'Account', 'aggregate_version', version, 'tenant_id', null,
                   'actor_id', 'zoë', 'correlation_id', '00000000-0000-0000-0000-00000000012c', 'causation_id', null,
                   'metadata', '{"ip":"::1"}'::jsonb) || fields::jsonb
        FROM (VALUES ('00000000-0000-0000-0000-000000000001'::uuid, 'Opened', 1, '{"owner":"Ada"}'),
                     ('00000000-0000-0000-0000-000000000002'::uuid, 'Deposited', 2, '{"cents":120}'))
             AS events (event_id, type, version, fields)"#;
    let (store, _folder) = import(&lines("eventsource-py.md", tables).await).await;
    assert_eq!(balance(&store, "00000000-0000-0000-0000-000000000064").await, (120, 2));
    let head = store.head().await.unwrap();
    let stored: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    let metadata = stored[1].metadata();
    assert_eq!(metadata.event_id().as_uuid(), eventbus::Uuid::from_u128(2));
    assert_eq!(metadata.correlation_id(), eventbus::Uuid::from_u128(0x12c));
    assert_eq!((metadata.actor_id(), metadata.attributes().as_json().contains("::1")), (Some("zoë"), true));
    assert!(metadata.original_recorded_at() > Some(metadata.occurred_at()));
}
