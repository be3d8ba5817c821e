//! Projections: their state, the runner that feeds them, and how they are read.

mod guard;
mod projected;
mod rebuild;
mod registration;
mod runner;
mod slot;

pub use guard::ProjectionGuard;
pub use projected::{Projected, ProjectionError};
pub use rebuild::{Rebuild, RebuildError, RebuildProgress, Rebuilt};
pub use registration::ProjectionRegistration;
pub use slot::ProjectionSlot;
