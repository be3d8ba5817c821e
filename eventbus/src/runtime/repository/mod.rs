//! The repository: loads and saves aggregates.

mod aggregate_repository;
mod error;
mod save_publisher;
mod saved;

pub use aggregate_repository::{AggregateRepository, UpdateFuture};
pub use error::{LoadError, SaveError, UpdateError};
pub use saved::{Publication, Saved};
