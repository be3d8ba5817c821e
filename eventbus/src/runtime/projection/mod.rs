//! Projections: their state, the runner that feeds them, and how they are read.

mod aggregate_rebuild;
mod any_projection;
mod context;
mod error;
mod event_handling;
mod failure;
mod fed_types;
mod guard;
mod handle;
mod inner;
mod memory_rebuild;
mod progress;
mod rebuild;
mod rebuild_progress;
mod registration;
mod runner;
mod sequential_feeder;
mod shadow_rebuild;
mod standby;
mod standby_roles;
mod status;
mod store_check;
mod transactional_writer;

pub(crate) use aggregate_rebuild::rebuild_aggregate;
pub use any_projection::AnyProjection;
pub(crate) use any_projection::ErasedProjection;
pub(crate) use context::{RunnerContext, projection_role};
pub use error::{ProjectionError, RebuildError};
pub(crate) use fed_types::accept_missed_events;
pub use guard::ProjectionGuard;
pub use handle::ProjectionHandle;
pub use rebuild::Rebuild;
pub(crate) use rebuild::rebuild_in_app;
pub use rebuild_progress::{RebuildProgress, Rebuilt};
pub use registration::ProjectionRegistration;
pub use status::{ProjectionOwner, ProjectionStatus, RebuildOwner};
