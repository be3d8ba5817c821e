//! The relays of a store, which publish its events.

use std::collections::BTreeMap;

use eventbus::{Name, Position, bus::EventBus, clock::SharedClock, store::EventStore, support::ReaderKind};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    position::{Lag, all_checkpoints, all_leases},
    skips::{SkippedRow, skipped_by},
};
use crate::{
    error::CommandError,
    output::{serialize_option_time, serialize_position},
};

/// The relay of a store to a bus.
#[derive(Debug, Clone, Serialize)]
pub struct RelayRow {
    /// The bus.
    pub destination: String,
    /// The process that publishes; `None` if there is none now.
    pub leader: Option<String>,
    /// The position up to which events are published: from the bus if that was asked, else the last one that the leader
    /// saved.
    #[serde(serialize_with = "serialize_position")]
    pub position: Position,
    /// The end of the feed.
    #[serde(serialize_with = "serialize_position")]
    pub head: Position,
    /// Its lag.
    #[serde(flatten)]
    pub lag: Lag,
    /// The published position at which the relay stopped, because the store went back behind it; an operator must
    /// decide.
    pub halted_at: Option<String>,
    /// When the leader saved its checkpoint last, if the store keeps that.
    #[serde(serialize_with = "serialize_option_time")]
    pub updated_at: Option<OffsetDateTime>,
    /// The events that it skips by order of an operator.
    pub skipped: Vec<SkippedRow>,
}

/// The data that a store keeps about a relay.
#[derive(Default)]
struct StoredRelay {
    leader: Option<String>,
    position: Option<Position>,
    updated_at: Option<OffsetDateTime>,
}

/// Lists the relays of a store, by destination; asks `bus` for the position of the relay to it.
///
/// # Errors
/// [`CommandError`] if the store or the bus cannot be reached, or the store lists no checkpoints.
pub async fn list_relays(
    store: &dyn EventStore,
    bus: Option<&dyn EventBus>,
    clock: &SharedClock,
) -> Result<Vec<RelayRow>, CommandError> {
    let prefix = ReaderKind::Relay.prefix();
    let mut relays: BTreeMap<Name, StoredRelay> = BTreeMap::new();
    for checkpoint in all_checkpoints(store, prefix).await? {
        let relay = relays.entry(checkpoint.name).or_default();
        (relay.position, relay.updated_at) = (Some(checkpoint.position), checkpoint.updated_at);
    }
    for stored in all_leases(store, prefix).await? {
        relays.entry(stored.lease.role).or_default().leader = stored.is_held.then(|| stored.lease.owner.to_string());
    }
    let asked = match bus {
        Some(bus) => published_position(store, bus).await?,
        None => None,
    };
    if let Some((role, _)) = &asked {
        relays.entry(role.clone()).or_default();
    }
    let head = store.head().await?;
    let mut rows = Vec::with_capacity(relays.len());
    for (role, relay) in relays {
        let Some(destination) = destination_of(&role) else { continue };
        let of_bus = asked.as_ref().filter(|(asked, _)| *asked == role).map(|(_, position)| *position);
        let position = of_bus.or(relay.position).unwrap_or_default();
        let halted = store.load_checkpoint(&ReaderKind::HaltedRelay.name_of(&destination)).await?;
        rows.push(RelayRow {
            destination: destination.to_string(),
            leader: relay.leader,
            position,
            head,
            lag: Lag::load(store, clock, position, head).await?,
            halted_at: halted.filter(|halted| *halted > Position::START).map(|halted| halted.to_string()),
            updated_at: relay.updated_at,
            skipped: skipped_by(store, &role).await?,
        });
    }
    Ok(rows)
}

/// Returns the bus to which the relay with a role publishes.
fn destination_of(role: &Name) -> Option<Name> {
    let (_, name) = ReaderKind::parse(role)?;
    Name::new("destination", name).ok()
}

/// Asks a bus for the published position of a store. Also returns the role of the relay.
async fn published_position(
    store: &dyn EventStore,
    bus: &dyn EventBus,
) -> Result<Option<(Name, Position)>, CommandError> {
    let Some(target) = bus.relay_target() else { return Ok(None) };
    let record = target.published_position(store.store_id().await?).await?;
    Ok(record.map(|record| (ReaderKind::Relay.name_of(bus.destination()), record.position)))
}
