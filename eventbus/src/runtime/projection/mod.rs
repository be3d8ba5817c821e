//! Projections: their state, the runner that feeds them, and how they are read.

mod error;
mod fed;
mod feeding;
mod guard;
mod one_by_one;
mod progress;
mod projected;
mod rebuild;
mod rebuild_progress;
mod registration;
mod replay;
mod runner;
mod shadow;
mod slot;
mod stand_by;
mod status;
mod stream;
mod trial;
mod writer;

pub use error::{ProjectionError, RebuildError};
pub use guard::ProjectionGuard;
pub use projected::Projected;
pub use rebuild::{Rebuild, Rebuilt};
pub use rebuild_progress::RebuildProgress;
pub use registration::ProjectionRegistration;
pub(crate) use runner::{RunWith, role_of};
pub use slot::ProjectionSlot;
pub use status::{ProjectionOwner, ProjectionStatus, RebuildOwner};
