//! Projections: their state, the runner that feeds them, and how they are read.

mod registration;
mod slot;

pub use registration::ProjectionRegistration;
pub use slot::ProjectionSlot;
