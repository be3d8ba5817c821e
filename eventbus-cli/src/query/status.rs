//! A store and its bus on one screen.

use eventbus::{bus::EventBus, clock::SharedClock, store::EventStore};
use serde::Serialize;

use super::{
    dead_letters::DeadLetterTally,
    groups::{GroupDetail, GroupRow, list_groups},
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
    /// The consumer groups.
    pub groups: Vec<GroupRow>,
    /// The dead letters, of which at most 1,000 are counted; `None` without a bus.
    pub dead_letters: Option<u64>,
    /// Set if there are more dead letters than were counted.
    pub more_dead_letters: bool,
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
        let tally = DeadLetterTally::load(bus, store).await?;
        view.bus = Some(match bus.is_in_process() {
            true => "in process".into(),
            false => bus.as_bus().describe(),
        });
        view.groups = list_groups(bus, store, (&tally, GroupDetail::Waiting), clock).await?;
        view.dead_letters = Some(tally.all());
        view.more_dead_letters = !tally.is_complete();
    }
    if let Some(store) = store {
        let redis: Option<&dyn EventBus> = bus.filter(|bus| !bus.is_in_process()).map(OpenBus::as_bus);
        view.store = Some(store.describe());
        view.store_id = Some(store.store_id().await?.to_string());
        view.head = Some(store.head().await?.to_string());
        view.relays = list_relays(store, redis, clock).await?;
        view.projections = list_projections(store, clock).await?;
    }
    Ok(view)
}
