//! The repository: loads and saves aggregates.

mod aggregate_repository;
mod command;
mod deciding;
mod error;
mod handler_repository;
mod history;
mod outcome;
mod pending_events;
mod repository_store;
mod save_publisher;
mod saved;
mod snapshot_tasks;
mod state_cache;
mod tag_queues;
mod tags;
mod together;
mod unique;

pub(crate) use aggregate_repository::CONFLICT_RETRY;
pub use aggregate_repository::{AggregateRepository, Once, UpdateFuture};
pub use deciding::{Deciding, DecidingOnce};
pub use error::{
    BoundaryError, FindByError, HistoryError, LoadError, OnceError, SaveError, TakeSnapshotError, UpdateError,
};
pub use handler_repository::Repository;
pub(crate) use handler_repository::RepositorySource;
pub use history::{Change, HistoryStep};
pub use saved::{Publication, Saved, SavedTogether};
pub(crate) use snapshot_tasks::SnapshotTasks;
pub use tags::TaggedEvents;
pub(crate) use tags::tag_stored_events;
pub use together::Together;
pub use unique::{DuplicateValue, TakenValues};
