//! A store and its bus on one screen.

use eventbus::{bus::EventBus, clock::SharedClock, store::EventStore};
use serde::Serialize;

use super::{
    groups::{GroupRow, list_groups},
    handlers::{HandlerRow, list_handlers},
    projections::{ProjectionRow, list_projections},
    relays::{RelayRow, list_relays},
};
use crate::{connection::OpenBus, error::CommandError};

/// A store and its bus on one screen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatusView {
    /// The store, without its password.
    pub store: Option<String>,
    /// The id of the store.
    pub store_id: Option<String>,
    /// The end of its feed.
    pub head: Option<String>,
    /// The error of the store, if only the bus can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_error: Option<String>,
    /// The bus, without its password; `None` if only the store can be used.
    pub bus: Option<String>,
    /// The error of the bus, if only the store can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus_error: Option<String>,
    /// The relays.
    pub relays: Vec<RelayRow>,
    /// The projections.
    pub projections: Vec<ProjectionRow>,
    /// The handlers that read the store.
    pub handlers: Vec<HandlerRow>,
    /// The consumer groups of the bus.
    pub groups: Vec<GroupRow>,
    /// The dead letters of handlers and bus; `None` if the bus cannot be used.
    pub dead_letters: Option<u64>,
}

/// Loads the status of a store and its bus, or of one of them.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub async fn load_status(
    store: Option<&dyn EventStore>,
    bus: Option<&OpenBus>,
    clock: &SharedClock,
) -> Result<StatusView, CommandError> {
    let mut view = StatusView::default();
    if let Some(bus) = bus {
        view.bus = Some(bus.as_bus().describe());
        view.dead_letters = Some(0);
        if !matches!(bus, OpenBus::Store(_)) {
            view.groups = list_groups(bus).await?;
            view.dead_letters = Some(bus.stream_info().await?.dlq_messages);
        }
    }
    if let Some(store) = store {
        let redis: Option<&dyn EventBus> = bus.filter(|bus| !bus.is_in_process()).map(OpenBus::as_bus);
        view.store = Some(store.describe());
        view.store_id = Some(store.store_id().await?.to_string());
        view.head = Some(store.head().await?.to_string());
        view.relays = list_relays(store, redis, clock).await?;
        view.projections = list_projections(store, clock).await?;
        view.handlers = list_handlers(store, clock).await?;
        let dead: u64 = view.handlers.iter().map(|handler| handler.dead_letters).sum();
        view.dead_letters = view.dead_letters.map(|of_bus| of_bus + dead);
    }
    Ok(view)
}
