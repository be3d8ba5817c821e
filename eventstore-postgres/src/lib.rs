#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod append;
mod checkpoint;
mod columns;
mod config;
mod error;
mod fault;
mod feed;
mod floor;
mod lease;
mod migrate;
mod pool;
mod preflight;
mod read;
mod record;
mod resolve;
mod schema;
mod session;
mod statements;
mod store;
mod transaction;

pub use config::PgEventStoreConfig;
pub use error::{PgConnectError, PgPrecondition};
pub use sqlx::PgConnection;
pub use store::PgEventStore;
pub use transaction::PgTransaction;
