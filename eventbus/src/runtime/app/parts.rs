//! The checked parts of an app, before it starts.

use std::sync::Arc;

use super::plan::CheckedPlan;
use crate::{
    domain::clock::SharedClock,
    port::{EventBus, EventStore, state::StateMap},
    runtime::{engine::StoreBus, repository::RepositorySource},
};

/// The checked parts of an app, before it starts.
pub(super) struct Parts {
    pub(super) store: Arc<dyn EventStore>,
    pub(super) bus: Arc<dyn EventBus>,
    /// The handlers on the store, if they read it.
    pub(super) store_bus: Option<StoreBus>,
    pub(super) clock: SharedClock,
    pub(super) repositories: RepositorySource,
    pub(super) state: StateMap,
    pub(super) plan: CheckedPlan,
}
