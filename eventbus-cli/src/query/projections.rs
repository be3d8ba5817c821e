//! The projections whose progress a store keeps.

use std::collections::BTreeSet;

use eventbus::{
    EventId, Name, Position,
    clock::SharedClock,
    port::listings::{StoredCheckpoint, StoredLease},
    projection::NotedStop,
    store::EventStore,
    support::ReaderKind,
};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    position::{Lag, all_checkpoints, all_leases},
    skips::{SkippedRow, skipped_by},
};
use crate::{
    error::CommandError,
    output::{serialize_option_time, serialize_position, serialize_time},
};

/// A projection whose progress a store keeps. A projection whose state is in memory has no progress there.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectionRow {
    /// Its name.
    pub name: String,
    /// The last position that it contains.
    #[serde(serialize_with = "serialize_position")]
    pub position: Position,
    /// The end of the feed.
    #[serde(serialize_with = "serialize_position")]
    pub head: Position,
    /// Its lag.
    #[serde(flatten)]
    pub lag: Lag,
    /// The process that feeds it; `None` if there is none now.
    pub owner: Option<String>,
    /// The process that rebuilds it beside the live rows.
    pub rebuilt_by: Option<String>,
    /// When its checkpoint was saved last, if the store keeps that.
    #[serde(serialize_with = "serialize_option_time")]
    pub updated_at: Option<OffsetDateTime>,
    /// The events that it skips by order of an operator.
    pub skipped: Vec<SkippedRow>,
    /// Its stop before an event, as the process that stopped has noted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<StoppedRow>,
}

/// The stop of a projection before an event that it cannot handle.
#[derive(Debug, Clone, Serialize)]
pub struct StoppedRow {
    /// The position of the event.
    #[serde(serialize_with = "serialize_position")]
    pub position: Position,
    /// The type of the event.
    pub event_type: String,
    /// The id of the event.
    pub event_id: EventId,
    /// The error of the projection's method.
    pub error: String,
    /// The process that stopped there last.
    pub owner: String,
    /// The time of the stop.
    #[serde(serialize_with = "serialize_time")]
    pub since: OffsetDateTime,
}

/// Lists the projections that have a checkpoint or an owner, by name.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached, or lists no checkpoints.
pub async fn list_projections(store: &dyn EventStore, clock: &SharedClock) -> Result<Vec<ProjectionRow>, CommandError> {
    let prefix = ReaderKind::Projection.prefix();
    let checkpoints = all_checkpoints(store, prefix).await?;
    let leases = all_leases(store, prefix).await?;
    let rebuilds = ReaderKind::Rebuild.prefix();
    let rebuilds = all_leases(store, rebuilds).await?;
    let head = store.head().await?;
    let names = checkpoints.iter().map(|checkpoint| &checkpoint.name);
    let roles: BTreeSet<_> = names.chain(leases.iter().map(|stored| &stored.lease.role)).collect();
    let owner_of = |list: &[StoredLease], role: &Name| {
        let held = list.iter().find(|stored| stored.lease.role == *role && stored.is_held);
        held.map(|stored| stored.lease.owner.to_string())
    };
    let mut rows = Vec::with_capacity(roles.len());
    for role in roles {
        let Some((_, name)) = ReaderKind::parse(role) else { continue };
        let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.name == *role);
        let position = checkpoint.map_or(Position::START, |checkpoint: &StoredCheckpoint| checkpoint.position);
        let skipped = skipped_by(store, role).await?;
        let stopped = load_stop(store, role, &skipped).await?;
        let rebuild = Name::new("projection", name).map(|name| ReaderKind::Rebuild.name_of(&name));
        rows.push(ProjectionRow {
            name: name.to_owned(),
            position,
            head,
            lag: Lag::load(store, clock, position, head).await?,
            owner: owner_of(&leases, role),
            rebuilt_by: rebuild.ok().and_then(|role| owner_of(&rebuilds, &role)),
            updated_at: checkpoint.and_then(|checkpoint| checkpoint.updated_at),
            skipped,
            stopped,
        });
    }
    Ok(rows)
}

/// Loads the noted stop of a projection, unless the projection has passed the event or skips it.
async fn load_stop(
    store: &dyn EventStore,
    role: &Name,
    skipped: &[SkippedRow],
) -> Result<Option<StoppedRow>, CommandError> {
    let stands = |stop: &NotedStop| skipped.iter().all(|skipped| skipped.position != stop.position);
    let noted = NotedStop::load(store, role).await?.filter(stands);
    Ok(noted.map(|stop| StoppedRow {
        position: stop.position,
        event_type: stop.event_type,
        event_id: stop.event_id,
        error: stop.error,
        owner: stop.owner,
        since: stop.since,
    }))
}
