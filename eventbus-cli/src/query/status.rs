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
#[derive(Debug, Clone, Serialize)]
pub struct StatusView {
    /// The store, without its password.
    pub store: Option<String>,
    /// The id of the store.
    pub store_id: Option<String>,
    /// The end of its feed.
    pub head: Option<String>,
    /// The bus, without its password.
    pub bus: String,
    /// The relays.
    pub relays: Vec<RelayRow>,
    /// The projections.
    pub projections: Vec<ProjectionRow>,
    /// The consumer groups.
    pub groups: Vec<GroupRow>,
    /// The dead letters, of which at most 1,000 are counted.
    pub dead_letters: u64,
    /// Set if there are more dead letters than were counted.
    pub more_dead_letters: bool,
}

/// Loads the status of a store and its bus.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached.
pub async fn load_status(
    store: Option<&dyn EventStore>,
    bus: &OpenBus,
    clock: &SharedClock,
) -> Result<StatusView, CommandError> {
    let tally = DeadLetterTally::load(bus, store).await?;
    let mut view = StatusView {
        store: None,
        store_id: None,
        head: None,
        bus: match bus.is_in_process() {
            true => "in process".into(),
            false => bus.as_bus().describe(),
        },
        relays: Vec::new(),
        projections: Vec::new(),
        groups: list_groups(bus, store, (&tally, GroupDetail::Waiting), clock).await?,
        dead_letters: tally.all(),
        more_dead_letters: !tally.is_complete(),
    };
    if let Some(store) = store {
        let redis: Option<&dyn EventBus> = Some(bus.as_bus()).filter(|_| !bus.is_in_process());
        view.store = Some(store.describe());
        view.store_id = Some(store.store_id().await?.to_string());
        view.head = Some(store.head().await?.to_string());
        view.relays = list_relays(store, redis, clock).await?;
        view.projections = list_projections(store, clock).await?;
    }
    Ok(view)
}
