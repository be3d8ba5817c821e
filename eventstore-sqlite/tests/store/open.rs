//! Reasons for which opening fails; a failure changes no file.

use std::{fs, path::Path, time::Duration};

use crate::common::{events, feed, fresh_path, fresh_stream, open, within};
use eventbus::{
    ExpectedVersion,
    port::{AppendEvents as _, Transactions as _},
};
use eventstore_sqlite::{SqliteConnectError, SqliteEventStore, SqliteEventStoreConfig};
use rusqlite::Connection;

async fn refusal(path: &Path) -> SqliteConnectError {
    SqliteEventStore::open(path).await.unwrap_err()
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_kept() {
    let path = fresh_path();
    let text = "Dear diary, ".repeat(200);
    fs::write(&path, &text).unwrap();
    let error = refusal(&path).await;
    assert!(matches!(&error, SqliteConnectError::NotADatabase { path: named, .. } if *named == path));
    assert_eq!(error.to_string(), format!("`{}` is not a SQLite database", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_foreign_database_is_refused_untouched_unless_it_may_be_shared() {
    let path = fresh_path();
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('ann')").unwrap();
    let before = fs::read(&path).unwrap();
    match refusal(&path).await {
        SqliteConnectError::ForeignDatabase { path: named, table } => {
            assert_eq!((named, &*table), (path.clone(), "users"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), before, "not a byte is changed, nor the journal mode");

    let share = SqliteEventStoreConfig { share_database: true, ..Default::default() };
    let store = SqliteEventStore::open_with(&path, share).await.unwrap();
    store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
    drop(store);
    assert_eq!(feed(&open(path).await).await.len(), 1, "later it needs no permission");
    let users: i64 = foreign.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap();
    assert_eq!(users, 1);
}

#[tokio::test]
async fn tables_may_be_added_beside_a_store() {
    let path = fresh_path();
    drop(open(path.clone()).await);
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE events (mine TEXT)").unwrap();
    open(path).await;
}

#[tokio::test]
async fn tables_of_a_newer_release_are_refused_from_its_first_breaking_migration_on() {
    let path = fresh_path();
    drop(open(path.clone()).await);
    let applied = |version: u32, kind: &str| {
        let sql = "INSERT INTO eventbus_migrations (version, name, kind) VALUES (?1, 'future', ?2)";
        Connection::open(&path).unwrap().execute(sql, (version, kind)).unwrap();
    };
    applied(97, "additive");
    let store = open(path.clone()).await;
    store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
    assert_eq!(feed(&store).await.len(), 1);
    drop(store);

    applied(99, "breaking");
    applied(98, "of a kind that is not known yet");
    let migrations = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    let error = refusal(&path).await;
    let said = format!(
        "`{}` has the breaking migration 98 `future`, this release knows migrations up to {migrations}: upgrade \
         eventstore-sqlite",
        path.display()
    );
    assert_eq!(error.to_string(), said);
    assert!(matches!(error, SqliteConnectError::SchemaTooNew { breaking: 98, .. }));
}

#[tokio::test]
async fn tables_of_an_older_layout_are_refused_and_kept() {
    let old_tables = "
        CREATE TABLE eventbus_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER) STRICT;
        CREATE TABLE eventbus_events (position INTEGER PRIMARY KEY, payload TEXT NOT NULL) STRICT;
        INSERT INTO eventbus_migrations VALUES (1, '0001_events', 0), (8, '0008_event_types', 0)";
    let tables_of_others = "CREATE TABLE eventbus_migrations (id TEXT, batch INTEGER)";
    for (tables, found) in [
        (old_tables, "its newest migration is 8 `0008_event_types`"),
        (tables_of_others, "the columns of its table `eventbus_migrations` are id, batch"),
    ] {
        let path = fresh_path();
        Connection::open(&path).unwrap().execute_batch(tables).unwrap();
        let before = fs::read(&path).unwrap();
        let error = refusal(&path).await;
        assert!(matches!(error, SqliteConnectError::OldLayout { .. }), "{error:?}");
        let said = error.to_string();
        for part in [&*path.to_string_lossy(), found, "before the first release", "export", "start with a new file"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(fs::read(&path).unwrap(), before, "not a byte is changed, nor the journal mode");
    }
}

#[tokio::test]
async fn a_table_in_the_way_leaves_the_database_as_it_was() {
    let path = fresh_path();
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE eventbus_checkpoints (other TEXT)").unwrap();
    let share = SqliteEventStoreConfig { share_database: true, ..Default::default() };
    let error = SqliteEventStore::open_with(&path, share).await.unwrap_err();
    assert!(matches!(&error, SqliteConnectError::Migration { migration: "initial", .. }), "{error:?}");
    let tables = "SELECT group_concat(name) FROM sqlite_schema WHERE type = 'table'";
    let tables: String = foreign.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, "eventbus_checkpoints");
}

#[tokio::test]
async fn missing_files_and_directories_are_named() {
    let path = fresh_path();
    let keep = SqliteEventStoreConfig { create_if_missing: false, ..Default::default() };
    let error = SqliteEventStore::open_with(&path, keep).await.unwrap_err();
    assert!(matches!(&error, SqliteConnectError::Unavailable { path: named, .. } if *named == path));
    assert!(!path.exists());
    let path = path.join("no/such/directory.db");
    let error = refusal(&path).await;
    assert_eq!(error.to_string(), format!("`{}` cannot be opened", path.display()));
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "its directory does not exist");
    let error = refusal(&std::env::temp_dir()).await;
    assert!(matches!(error, SqliteConnectError::Unavailable { .. }), "{error:?}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it is a directory");
    assert!(matches!(refusal(Path::new("")).await, SqliteConnectError::Unavailable { .. }));
}

#[tokio::test]
async fn a_url_is_no_path() {
    for (url, shown) in [
        ("sqlite::memory:", "sqlite::memory:"),
        ("sqlite:x.db", "sqlite:x.db"),
        ("postgres://app:secret@db/orders", "postgres://app@db/orders"),
    ] {
        let error = refusal(Path::new(url)).await;
        assert!(matches!(&error, SqliteConnectError::InvalidUrl { url, .. } if url == shown), "{error:?}");
        let said = format!("`{shown}` opens no SQLite event store: `open` takes a path, `connect` a URL; write");
        assert!(error.to_string().starts_with(&said), "{error}");
        assert!(!Path::new(url).exists(), "{url}");
    }
}

#[tokio::test]
async fn a_read_only_directory_or_file_is_named() {
    // the one directory in which even root makes no files
    let path = Path::new("/sys/events.db");
    let error = refusal(path).await.to_string();
    assert!(error.contains("/sys/events.db"), "{error}");

    let path = fresh_path();
    drop(open(path.clone()).await);
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("this user may write read-only files: nothing to refuse");
        return;
    }
    let error = refusal(&path).await;
    assert!(matches!(error, SqliteConnectError::ReadOnly { .. }), "{error:?}");
}

/// Fails if such a file is opened as a file that can be written: each append would fail, and callers would repeat it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_can_only_be_read_is_refused_by_a_store_that_migrates() {
    // that of a running program, which even root cannot write
    let path = std::env::current_exe().unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("this system writes the file of a running program: nothing to refuse");
        return;
    }
    let error = refusal(&path).await;
    assert!(matches!(&error, SqliteConnectError::ReadOnly { path: named, .. } if *named == path), "{error:?}");
    let only_reads = SqliteEventStoreConfig { migrate: false, ..Default::default() };
    let error = SqliteEventStore::open_with(&path, only_reads).await.unwrap_err();
    assert!(matches!(error, SqliteConnectError::NotADatabase { .. }), "it is read: {error:?}");
}

#[tokio::test]
async fn configurations_without_sense_are_refused() {
    for (config, field) in [
        (SqliteEventStoreConfig { readers: 0, ..Default::default() }, "readers"),
        (SqliteEventStoreConfig { queued_appends: 0, ..Default::default() }, "queued_appends"),
        (SqliteEventStoreConfig { transaction_timeout: Duration::ZERO, ..Default::default() }, "transaction_timeout"),
        (SqliteEventStoreConfig { busy_timeout: Duration::MAX, ..Default::default() }, "busy_timeout"),
    ] {
        let error = SqliteEventStore::connect_with("sqlite::memory:", config).await.unwrap_err();
        assert!(matches!(error, SqliteConnectError::InvalidConfig { .. }));
        assert!(error.to_string().contains(field), "{error}");
    }
}

/// Fails if one of them panics, as limits of the runtime and instants are smaller.
#[tokio::test]
async fn the_highest_numbers_and_times_work() {
    for config in [
        SqliteEventStoreConfig { readers: usize::MAX, ..Default::default() },
        SqliteEventStoreConfig { queued_appends: usize::MAX, ..Default::default() },
        SqliteEventStoreConfig { transaction_timeout: Duration::MAX, ..Default::default() },
    ] {
        for is_file in [true, false] {
            let store = match is_file {
                true => SqliteEventStore::open_with(fresh_path(), config.clone()).await,
                false => SqliteEventStore::connect_with("sqlite::memory:", config.clone()).await,
            };
            let store = store.unwrap();
            let appends = (0..20).map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.append(&fresh_stream(), ExpectedVersion::Any, events(2)).await })
            });
            for append in appends.collect::<Vec<_>>() {
                append.await.unwrap().unwrap();
            }
            let transaction = store.begin().await.unwrap();
            let waiting = store.clone();
            let waits = async move { waiting.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await };
            let waits = tokio::spawn(waits);
            transaction.commit().await.unwrap();
            within(waits).await.unwrap().unwrap();
            let read = (0..20).map(|_| {
                let store = store.clone();
                tokio::spawn(async move { feed(&store).await.len() })
            });
            for read in read.collect::<Vec<_>>() {
                assert_eq!(read.await.unwrap(), 41, "{config:?}");
            }
        }
    }
}

#[tokio::test]
async fn special_names_of_sqlite_are_plain_paths_here() {
    let directory = fresh_path();
    fs::create_dir(&directory).unwrap();
    for name in [":memory:", "file:x?mode=memory", "a b%20ü.db"] {
        let path = directory.join(name);
        let stream = fresh_stream();
        let store = open(path.clone()).await;
        let stored = store.append(&stream, ExpectedVersion::NoStream, events(2)).await.unwrap();
        assert_eq!(feed(&store).await, stored);
        assert!(path.exists(), "{name}");
    }
}

#[tokio::test]
async fn stores_in_memory_are_separate() {
    let (one, two) =
        (SqliteEventStore::in_memory().await.unwrap(), SqliteEventStore::connect("sqlite::memory:").await.unwrap());
    one.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
    assert_eq!((feed(&one).await.len(), feed(&two).await.len()), (1, 0));
}

#[tokio::test]
async fn the_last_handle_that_is_closed_leaves_one_file() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    store.append(&fresh_stream(), ExpectedVersion::Any, events(1)).await.unwrap();
    assert_eq!(feed(&store).await.len(), 1);
    assert!(path.with_extension("db-wal").exists());
    drop(store);
    assert!(!path.with_extension("db-wal").exists(), "the log is merged");
}

#[tokio::test]
async fn many_may_create_one_file_at_once() {
    for _ in 0..12 {
        let path = fresh_path();
        let opening = (0..24).map(|_| tokio::spawn(SqliteEventStore::open(path.clone())));
        for opened in opening.collect::<Vec<_>>() {
            opened.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn without_migrate_no_table_is_made_and_no_byte_changed() {
    let only_read = || SqliteEventStoreConfig { create_if_missing: false, migrate: false, ..Default::default() };
    let path = fresh_path();
    for create_if_missing in [false, true] {
        let config = SqliteEventStoreConfig { create_if_missing, ..only_read() };
        let missing = SqliteEventStore::open_with(&path, config).await.unwrap_err();
        assert!(matches!(missing, SqliteConnectError::Unavailable { .. }), "{missing}");
        assert!(!path.exists());
    }

    Connection::open(&path).unwrap().execute_batch("VACUUM").unwrap(); // a database without tables
    let before = fs::read(&path).unwrap();
    match SqliteEventStore::open_with(&path, only_read()).await.unwrap_err() {
        SqliteConnectError::NotMigrated { path: named, found: 0, needed } => assert!(named == path && needed > 0),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), before);

    drop(open(path.clone()).await);
    drop(SqliteEventStore::open_with(&path, only_read()).await.unwrap());
    Connection::open(&path).unwrap().execute("DELETE FROM eventbus_migrations WHERE version = 1", []).unwrap();
    let error = SqliteEventStore::open_with(&path, only_read()).await.unwrap_err();
    assert!(matches!(error, SqliteConnectError::NotMigrated { found: 0, needed: 1, .. }), "{error}");
}
