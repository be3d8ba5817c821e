//! The statements of the chapter on erasing, run as they stand there on a store that an app then reads.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use eventbus::{
    LoadError, Position, StreamId,
    prelude::*,
    projection::RebuildError,
    store::{FeedFilter, ReadError, ReadFeed as _},
};
use eventstore_postgres::{PgConnection, PgEventStore, sqlx};
use eventstore_sqlite::{SqliteEventStore, rusqlite};
use futures_util::TryStreamExt as _;
use guide::bank::{Account, AccountEvent};

/// Returns the blocks of SQL below a heading of the chapter: for PostgreSQL, and for SQLite.
fn blocks(heading: &str) -> [String; 2] {
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/erasing-a-person.md");
    let chapter = fs::read_to_string(chapter).unwrap();
    let section = chapter.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect::<Vec<_>>().try_into().unwrap()
}

/// Runs the block of SQL below a heading of the chapter, as the owner of the tables.
async fn run_block(heading: &str, store: &PgEventStore) {
    let [block, _] = blocks(heading);
    // its own transaction, instead of that of the block
    let statements = block.replace("BEGIN;\n", "").replace("COMMIT;\n", "");
    let mut transaction = store.begin_transaction().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(transaction.connection()).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Writes the owners of all accounts.
#[derive(Default)]
struct Owners;

#[projection(
    name = "owners",
    tables("owners"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS owners (id text PRIMARY KEY, owner text NOT NULL)",
    manual
)]
impl Owners {
    async fn opened(&self, event: &AccountEvent, id: &AggregateId, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if let AccountEvent::Opened(opened) = event {
            let insert = "INSERT INTO owners (id, owner) VALUES ($1, $2)";
            sqlx::query(insert).bind(id.as_str()).bind(&opened.owner).execute(conn).await?;
        }
        Ok(())
    }
}

/// Starts an app whose store has the accounts of Ada and Bob, two events each.
async fn bank(database: &eventbus_test::Postgres) -> (PgEventStore, App) {
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let app = App::builder().store(store.clone()).projection_with(|| Owners).start().await.unwrap();
    let accounts = app.repository::<Account>();
    for id in ["ada", "bob"] {
        let (owner, id) = (format!("{id} of the secret"), id.parse().unwrap());
        accounts.create_with(&id, owner, Account::open).await.unwrap();
        accounts.update_with(&id, 120, Account::deposit).await.unwrap();
    }
    app.settled().await.unwrap();
    (store, app)
}

async fn owners(store: &PgEventStore) -> Vec<String> {
    let mut read = store.begin_read().await.unwrap();
    sqlx::query_scalar("SELECT owner FROM owners ORDER BY id").fetch_all(read.connection()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn overwritten_fields_are_gone_and_all_else_goes_on() {
    let database = eventbus_test::postgres();
    let (store, app) = bank(&database).await;
    run_block("Overwrite the fields", &store).await;

    let accounts = app.repository::<Account>();
    let ada = "ada".parse().unwrap();
    accounts.update_with(&ada, 1, Account::deposit).await.unwrap();
    assert_eq!(accounts.load(&ada).await.unwrap().balance, 121);
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
    app.rebuild::<Owners>().await.unwrap();
    assert_eq!(owners(&store).await, ["erased", "bob of the secret"]);
    app.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_stream_stops_no_reader() {
    let database = eventbus_test::postgres();
    let (store, app) = bank(&database).await;
    run_block("Remove a stream", &store).await;

    let accounts = app.repository::<Account>();
    let ada: AggregateId = "ada".parse().unwrap();
    assert!(accounts.load(&ada).await.unwrap_err().is_not_found());
    let error = accounts.create_with(&ada, "Ada".into(), Account::open).await.unwrap_err();
    assert!(error.is_conflict(), "its id can be used again: {error}");
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
    accounts.update_with(&"bob".parse().unwrap(), 1, Account::deposit).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(owners(&store).await, ["ada of the secret", "bob of the secret"]);
    app.rebuild_aggregate::<Owners>(&StreamId::parse("Account", "ada").unwrap()).await.unwrap();
    assert_eq!(owners(&store).await, ["bob of the secret"]);
    app.rebuild::<Owners>().await.unwrap();
    assert_eq!(owners(&store).await, ["bob of the secret"]);
}

/// Without the stop of processes that cache states, as the chapter says.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_read_before_appends_to_a_removed_stream_which_is_unreadable_then() {
    let database = eventbus_test::postgres();
    let (store, app) = bank(&database).await;
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    let mut account = accounts.load(&ada).await.unwrap();
    run_block("Remove a stream", &store).await;
    account.record(account.deposit(1).unwrap());
    accounts.save(&mut account).await.unwrap();
    let error = accounts.load(&ada).await.unwrap_err();
    assert!(matches!(error, LoadError::Read(ReadError::Corrupt { .. })), "{error:?}");
}

/// A relay whose last published event is gone takes the store for an older copy.
#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_the_last_event_of_the_store_is_refused() {
    let database = eventbus_test::postgres();
    let (store, app) = bank(&database).await;
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    accounts.update_with(&ada, 1, Account::deposit).await.unwrap();
    let [block, _] = blocks("Remove a stream");
    let mut read = store.begin_transaction().await.unwrap();
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(block)).execute(read.connection()).await.unwrap_err();
    drop(read);
    assert!(refused.to_string().contains("save an event of another aggregate first"), "{refused}");
    assert_eq!(accounts.load(&ada).await.unwrap().balance, 121);
}

/// SQLite refuses to delete the last event of the store, and `sqlite3` goes on with the next statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_refused_changes_nothing_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bank.db");
    let store = SqliteEventStore::open(&file).await.unwrap();
    let app = App::builder().store(store).start().await.unwrap();
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    accounts.create_with(&ada, "Ada".to_owned(), Account::open).await.unwrap();
    let [_, block] = blocks("Remove a stream");
    let connection = rusqlite::Connection::open(&file).unwrap();
    let refused: Vec<_> =
        block.split(";\n").filter_map(|statement| connection.execute_batch(statement).err()).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].to_string().contains("the last event cannot be deleted"), "{refused:?}");
    let archived = "SELECT archived_through FROM eventbus_streams WHERE aggregate_id = 'ada'";
    assert_eq!(connection.query_row(archived, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

/// Without the statement about `archived_through`, as the chapter says.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_only_deleted_stop_a_rebuild() {
    let database = eventbus_test::postgres();
    let (store, app) = bank(&database).await;
    let mut transaction = store.begin_transaction().await.unwrap();
    let delete = "DELETE FROM eventbus.events e USING eventbus.streams s
                  WHERE s.stream_no = e.stream_no AND s.aggregate_id = 'ada'";
    sqlx::raw_sql(delete).execute(transaction.connection()).await.unwrap();
    transaction.commit().await.unwrap();
    let error = app.rebuild::<Owners>().await.unwrap_err();
    assert!(matches!(error, RebuildError::MissingEvent { .. }), "{error}");
}

/// Makes a file whose store has the accounts of Ada and Bob, two events each, and runs the block on it.
async fn file_after(heading: &str) -> (tempfile::TempDir, App, SqliteEventStore) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bank.db");
    let store = SqliteEventStore::open(&file).await.unwrap();
    let app = App::builder().store(store.clone()).start().await.unwrap();
    for id in ["ada", "bob"] {
        let (owner, id) = (format!("{id} of the secret"), id.parse().unwrap());
        app.repository::<Account>().create_with(&id, owner, Account::open).await.unwrap();
        app.repository::<Account>().update_with(&id, 120, Account::deposit).await.unwrap();
    }
    let [_, block] = blocks(heading);
    rusqlite::Connection::open(&file).unwrap().execute_batch(&block).unwrap();
    (folder, app, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn overwritten_fields_are_gone_from_a_file() {
    let (_folder, app, store) = file_after("Overwrite the fields").await;
    let (accounts, ada) = (app.repository::<Account>(), "ada".parse().unwrap());
    accounts.update_with(&ada, 1, Account::deposit).await.unwrap();
    assert_eq!(accounts.load(&ada).await.unwrap().balance, 121);
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
    let head = store.head().await.unwrap();
    let events: Vec<_> = store.read_feed(Position::START, head, &FeedFilter::all()).try_collect().await.unwrap();
    let payloads: Vec<_> = events.iter().map(|event| event.payload()).collect();
    assert!(payloads.iter().all(|payload| !payload.contains("ada of the secret")), "{payloads:?}");
    assert!(payloads.iter().any(|payload| payload.contains("bob of the secret")), "{payloads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_removed_from_a_file() {
    let (_folder, app, store) = file_after("Remove a stream").await;
    let (accounts, ada): (_, AggregateId) = (app.repository::<Account>(), "ada".parse().unwrap());
    assert!(accounts.load(&ada).await.unwrap_err().is_not_found());
    let error = accounts.create_with(&ada, "Ada".into(), Account::open).await.unwrap_err();
    assert!(error.is_conflict(), "its id can be used again: {error}");
    accounts.update_with(&"bob".parse().unwrap(), 1, Account::deposit).await.unwrap();
    assert_eq!(store.find_missing_event(None).await.unwrap(), None);
}
