//! Changes to the files of a store that has them open.
#![cfg(unix)]

use std::{error::Error, fs, path::Path, time::Duration};

use crate::common::{events, feed, fresh_path, fresh_stream, open};
use eventbus::{
    BoxError, ExpectedVersion, Name, Position,
    port::{AppendError, AppendEvents as _, Checkpoints as _, Leases as _, ReadFeed as _},
};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig, SqliteFileError};

const READER: Name = Name::from_static("reader");

/// Appends one event to a stream of its own.
async fn append(store: &SqliteEventStore) -> Result<(), AppendError> {
    store.append(&fresh_stream(), ExpectedVersion::NoStream, events(1)).await.map(drop)
}

/// The file error among the causes of an error.
fn file_error<'e>(error: &'e (dyn Error + 'static)) -> &'e SqliteFileError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return found;
        }
        cause = error.source();
    }
    panic!("nothing about a file: {error:?}")
}

#[track_caller]
fn is_removed(error: &(dyn Error + 'static), wanted: &Path) {
    match file_error(error) {
        SqliteFileError::Removed { path } => assert_eq!(path, wanted),
        other => panic!("{other:?}"),
    }
}

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    format!("{}{suffix}", path.display()).into()
}

#[tokio::test]
async fn the_write_ahead_log_becomes_shorter_after_a_large_transaction() {
    let path = fresh_path();
    let config = SqliteEventStoreConfig { transaction_timeout: Duration::from_secs(60), ..Default::default() };
    let store = SqliteEventStore::open_with(&path, config).await.unwrap();
    let log_bytes = || fs::metadata(beside(&path, "-wal")).unwrap().len();
    let mut tx = store.begin_transaction().await.unwrap();
    tx.execute("CREATE TABLE large AS SELECT zeroblob(100000000)", ()).unwrap();
    tx.commit().await.unwrap();
    assert!(log_bytes() > 100_000_000);
    for _ in 0..3 {
        append(&store).await.unwrap();
    }
    assert!(log_bytes() <= 64 << 20, "{}", log_bytes());
}

#[tokio::test]
async fn nothing_is_acknowledged_into_a_file_that_was_removed() {
    for suffix in ["", "-wal", "-shm"] {
        let path = fresh_path();
        let store = open(path.clone()).await;
        append(&store).await.unwrap();
        let lost = beside(&path, suffix);
        fs::remove_file(&lost).unwrap();

        // the store noticed the loss only after this commit
        let error = append(&store).await.unwrap_err();
        assert!(matches!(error, AppendError::OutcomeUnknown(_)), "{suffix}: {error:?}");
        is_removed(&error, &lost);
        // the store refuses the next ones without storing them
        for _ in 0..3 {
            let error = append(&store).await.unwrap_err();
            assert!(matches!(error, AppendError::Unavailable(_)), "{suffix}: {error:?}");
            is_removed(&error, &lost);
        }
        let ways: [BoxError; 5] = [
            store.save_checkpoint(&READER, Position::new(1)).await.unwrap_err().into(),
            store.load_checkpoint(&READER).await.unwrap_err().into(),
            store.acquire_lease(&READER, &READER, Duration::from_secs(1)).await.unwrap_err().into(),
            store.head().await.unwrap_err().into(),
            store.begin_transaction().await.unwrap_err(),
        ];
        for error in ways {
            is_removed(&*error, &lost);
        }
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_into_a_file_that_was_replaced() {
    let (path, copy) = (fresh_path(), fresh_path());
    let store = open(path.clone()).await;
    append(&store).await.unwrap();
    fs::copy(&path, &copy).unwrap();
    fs::rename(&copy, &path).unwrap();

    let error = append(&store).await.unwrap_err();
    assert!(matches!(file_error(&error), SqliteFileError::Replaced { path: lost } if *lost == path), "{error:?}");
    // a connection opened now would read the replacing file
    let error = store.head().await.unwrap_err();
    assert!(matches!(file_error(&error), SqliteFileError::Replaced { .. }), "{error:?}");
}

#[tokio::test]
async fn a_transaction_whose_file_was_removed_meanwhile_does_not_commit() {
    let path = fresh_path();
    let store = open(path.clone()).await;
    let mut tx = store.begin_transaction().await.unwrap();
    tx.execute("CREATE TABLE orders (id TEXT)", []).unwrap();
    store.append_in(&mut tx, &fresh_stream(), ExpectedVersion::NoStream, events(1)).await.unwrap();
    fs::remove_file(&path).unwrap();
    let error = tx.commit().await.unwrap_err();
    is_removed(&*error, &path);
}

#[tokio::test]
async fn a_store_whose_directory_is_moved_and_comes_back_goes_on() {
    let (directory, elsewhere) = (fresh_path(), fresh_path());
    fs::create_dir(&directory).unwrap();
    let path = directory.join("events.db");
    let store = open(path.clone()).await;
    append(&store).await.unwrap();
    fs::rename(&directory, &elsewhere).unwrap();
    is_removed(&append(&store).await.unwrap_err(), &path);
    is_removed(&append(&store).await.unwrap_err(), &path);

    fs::rename(&elsewhere, &directory).unwrap();
    append(&store).await.unwrap();
    // the event with the unknown outcome is stored too, the refused one is not
    assert_eq!(feed(&store).await.len(), 3);
}

#[tokio::test]
async fn a_file_behind_a_link_is_watched_and_so_is_the_link() {
    let (file, link, other) = (fresh_path(), fresh_path(), fresh_path());
    drop(open(file.clone()).await);
    drop(open(other.clone()).await);
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let store = open(link.clone()).await;
    append(&store).await.unwrap();

    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let error = append(&store).await.unwrap_err();
    assert!(matches!(file_error(&error), SqliteFileError::Replaced { path } if *path == link), "{error:?}");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    append(&store).await.unwrap();

    let log = beside(&file, "-wal");
    fs::remove_file(&log).unwrap();
    is_removed(&append(&store).await.unwrap_err(), &fs::canonicalize(&file).map(|file| beside(&file, "-wal")).unwrap());
}
