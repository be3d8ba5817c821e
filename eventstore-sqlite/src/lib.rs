//! The SQLite event store of [`eventbus`], its embedded default: events in one file, no server.
//!
//! [`SqliteEventStore::open`] takes a path, [`SqliteEventStore::connect`] takes a URL, [`SqliteEventStore::in_memory`]
//! needs neither. An append that returned `Ok` survives a power failure, see [`Synchronous`]. Concurrent appends share
//! one commit. Several processes may use one file, which must not be on a network file system.
//!
//! If a file is removed or replaced while the store has it open, the store notices before it acknowledges a write, see
//! [`SqliteFileError`]. It does not notice a file that is overwritten in place: stop the application before you restore
//! a copy.
//!
//! The tables have names that begin with `eventbus_`, so that an application may keep its read models in the same file.
//!
//! # Examples
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
//! use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, Version};
//! use eventbus::store::{AppendEvents, ReadStream};
//! use eventstore_sqlite::SqliteEventStore;
//!
//! let store = SqliteEventStore::in_memory().await?;
//! let stream = StreamId::parse("Account", "12345")?;
//! let event = NewEvent::new(Name::new("event type", "Deposited")?, 1, r#"{"cents":120}"#);
//! let recorded = store.append(&stream, ExpectedVersion::NoStream, vec![event]).await?;
//!
//! assert_eq!(recorded[0].version(), Version::FIRST);
//! assert_eq!(store.stream_version(&stream).await?, Version::FIRST);
//! # Ok(()) }
//! ```

mod append;
mod blocking;
mod boundaries;
mod checked_append;
mod checkpoint;
mod config;
mod connection;
mod error;
mod event_types;
mod feed;
mod files;
mod filter;
mod handler_progress;
mod handler_table;
mod lease;
mod listings;
mod location;
mod member_locks;
mod migrate;
mod migration_step;
mod missing_events;
mod multi_stream_append;
mod query;
mod read;
mod readers;
mod row;
mod schema;
mod search;
mod shadow_databases;
mod slots;
mod snapshot;
mod store;
mod store_inner;
mod tag_rows;
mod tagged_positions;
mod transaction;
mod transactions;
mod unique_values;
mod value_rows;
mod visit;
mod writer;

pub use config::{SqliteEventStoreConfig, Synchronous};
pub use error::{SqliteConnectError, SqliteTransactionError};
pub use files::SqliteFileError;
pub use location::file_of_url;
/// The driver, in the version this crate uses.
pub use rusqlite;
pub use store::SqliteEventStore;
pub use transaction::{SqliteTransaction, SqliteTransactionConnection};
