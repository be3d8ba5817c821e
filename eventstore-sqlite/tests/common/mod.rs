//! Files for tests, in a directory of this process; directories of ended processes are removed.

#![allow(dead_code, reason = "each test crate uses another part of it")]
#![allow(clippy::unwrap_used, reason = "tests only, though not all functions are marked as such")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eventbus::{
    AggregateId, Name, NewEvent, Position, RecordedEvent, StreamId, Version,
    port::{Direction, ReadFeed as _, ReadStream as _},
};
use eventstore_sqlite::SqliteEventStore;
use futures_util::TryStreamExt as _;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eventstore-sqlite");
    for left in fs::read_dir(&all).into_iter().flatten().flatten() {
        let alive = Path::new("/proc").join(left.file_name()).exists();
        if !alive {
            // a second test process may be removing it too
            let _ = fs::remove_dir_all(left.path());
        }
    }
    let mine = all.join(std::process::id().to_string());
    fs::create_dir_all(&mine).unwrap();
    mine
});

/// A path without a file.
pub(crate) fn fresh_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    DIRECTORY.join(format!("{number}.db"))
}

/// Opens a store, and fails the test if that fails.
pub(crate) async fn open(path: PathBuf) -> SqliteEventStore {
    SqliteEventStore::open(path).await.unwrap()
}

/// The output of a future, which has a time limit.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it takes too long")
}

/// A stream of its own.
pub(crate) fn fresh_stream() -> StreamId {
    StreamId::new(Name::from_static("Account"), AggregateId::new())
}

/// `count` different events.
pub(crate) fn events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|n| NewEvent::new(Name::from_static("Counted"), 1, format!(r#"{{"n":{n}}}"#))).collect()
}

/// All events of a stream.
pub(crate) async fn read(store: &SqliteEventStore, stream: &StreamId) -> Vec<RecordedEvent> {
    let read = store.read_stream(stream, Version::FIRST, Direction::Forward);
    read.try_collect().await.unwrap()
}

/// All events of a store.
pub(crate) async fn feed(store: &SqliteEventStore) -> Vec<RecordedEvent> {
    store.read_all(Position::START).try_collect().await.unwrap()
}
