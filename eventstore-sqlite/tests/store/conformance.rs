//! The store passes the suites of event stores, in a file and in memory.

use std::path::PathBuf;

use crate::common::{fresh_path, open};
use eventstore_sqlite::{SqliteEventStore, SqliteEventStoreConfig, Synchronous};

eventbus::event_store_conformance!(file, open(fresh_path()));
eventbus::event_store_conformance!(memory, async { SqliteEventStore::in_memory().await.unwrap() });
eventbus::event_store_conformance!(fast_file_with_one_reader, async {
    let config = SqliteEventStoreConfig { synchronous: Synchronous::Normal, readers: 1, ..Default::default() };
    SqliteEventStore::open_with(fresh_path(), config).await.unwrap()
});
eventbus::event_store_tags_conformance!(tags_in_a_file, open(fresh_path()));
eventbus::event_store_tags_conformance!(tags_in_memory, async { SqliteEventStore::in_memory().await.unwrap() });
eventbus::event_store_transactions_conformance!(transactions, open(fresh_path()));
eventbus::handler_progress_conformance!(handlers_in_a_file, open(fresh_path()));
eventbus::handler_progress_conformance!(handlers_in_memory, async { SqliteEventStore::in_memory().await.unwrap() });
eventbus::event_store_reopen_conformance!(reopened, async { fresh_path() }, async |path: PathBuf| open(path).await);
