//! The repository: loads and saves aggregates.

mod aggregate_repository;
mod error;
mod history;
mod save_publisher;
mod saved;
mod snapshot_tasks;
mod state_cache;

pub use aggregate_repository::{AggregateRepository, UpdateFuture};
pub use error::{HistoryError, LoadError, SaveError, TakeSnapshotError, UpdateError};
pub use history::{Change, HistoryStep};
pub use saved::{Publication, Saved};
pub(crate) use snapshot_tasks::SnapshotTasks;
