//! Projections: their state, the runner that feeds them, and how they are read.

mod error;
mod feeding;
mod guard;
mod progress;
mod projected;
mod rebuild;
mod registration;
mod runner;
mod slot;

pub use error::{ProjectionError, RebuildError};
pub use guard::ProjectionGuard;
pub use projected::Projected;
pub use rebuild::{Rebuild, RebuildProgress, Rebuilt};
pub use registration::ProjectionRegistration;
pub use slot::ProjectionSlot;
