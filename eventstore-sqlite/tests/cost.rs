//! The cost of an append on disk: bytes of WAL.

#![allow(clippy::unwrap_used, reason = "as in any test")]

mod common;

use std::{fs, path::Path};

use common::{events, fresh_path, fresh_stream, open};
use eventbus::{
    ExpectedVersion::Any,
    StreamId,
    port::{Append, AppendEvents as _},
};
use eventstore_sqlite::SqliteEventStore;

/// A page of the database with its header, as the WAL holds it.
const FRAME_BYTES: u64 = 4_096 + 24;
const HEADER_BYTES: u64 = 32;

/// Returns the number of pages in the WAL, which grows until it has a thousand.
fn pages(database: &Path) -> u64 {
    let wal = database.with_extension("db-wal");
    (fs::metadata(wal).unwrap().len() - HEADER_BYTES) / FRAME_BYTES
}

async fn append_at_once(store: &SqliteEventStore, streams: &[StreamId]) {
    let append = |stream: &StreamId| Append { stream: stream.clone(), expected: Any, events: events(1) };
    let appended = store.append_many(streams.iter().map(append).collect()).await;
    assert!(appended.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_commit_writes_few_pages() {
    const APPENDS: u64 = 50;
    let (path, known) = (fresh_path(), [fresh_stream()]);
    let store = open(path.clone()).await;
    append_at_once(&store, &known).await;
    let mut written = pages(&path);
    let mut pages_since_last = || {
        let before = std::mem::replace(&mut written, pages(&path));
        written - before
    };
    for _ in 0..APPENDS {
        append_at_once(&store, &known).await;
    }
    let known_stream = pages_since_last();
    for _ in 0..APPENDS {
        append_at_once(&store, &[fresh_stream()]).await;
    }
    let new_stream = pages_since_last();
    let streams: Vec<_> = (0..APPENDS).map(|_| fresh_stream()).collect();
    append_at_once(&store, &streams).await;
    let at_once = pages_since_last();
    // 203, 252 and 12 when the bounds were written: a page each of the events, their two keys and the streams, for a
    // new stream of its identity too, and splits
    let written = [known_stream, new_stream, at_once];
    assert!(known_stream <= 210 && new_stream <= 260 && at_once <= 14, "{written:?} pages");
}
