#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod append;
mod append_events;
mod boundaries;
mod checkpoint;
mod columns;
mod config;
mod connector;
mod error;
mod event_types;
mod feed;
mod feed_page;
mod filter_parameters;
mod gate;
mod handler_progress;
mod identifier;
mod joint_page;
mod joint_pages;
mod last_fault;
mod lease;
mod listings;
mod migrate;
mod migration_lock;
mod migration_step;
mod missing_events;
mod notify;
mod on_pool;
mod open_append;
mod pool;
mod preflight;
mod read;
mod record;
mod resolve;
mod schema;
mod setup_session;
mod shadow;
mod shard_saves;
mod snapshot;
mod statement_error;
mod statement_pool;
mod statements;
mod store;
mod store_inner;
mod stream_numbers;
#[cfg(test)]
mod tests;
mod transaction;
mod transactions;
mod url;
mod visit;

pub use append::PgAppendInError;
pub use config::PgEventStoreConfig;
pub use error::{PgConnectError, PgPrecondition, PgTransactionError};
pub use on_pool::PgOnPoolConfig;
pub use open_append::PgOpenAppend;
/// The driver, in the version this crate uses.
pub use sqlx;
pub use sqlx::PgConnection;
pub use store::PgEventStore;
pub use transaction::PgTransaction;
