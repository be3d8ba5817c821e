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
    /// Runs the handlers.
    pub(super) bus: Arc<dyn EventBus>,
    /// The handlers on the store; `None` in an app without a store.
    pub(super) store_bus: Option<StoreBus>,
    /// The bus on which the relay publishes the events of the store.
    pub(super) relayed: Option<Arc<dyn EventBus>>,
    pub(super) clock: SharedClock,
    pub(super) repositories: RepositorySource,
    pub(super) state: StateMap,
    pub(super) plan: CheckedPlan,
}
