//! Status of a projection.

use serde::Serialize;
use time::OffsetDateTime;

use super::{ProjectionError, progress::ProjectionProgress};
use crate::{
    domain::{name::Name, shown, stream::Position},
    runtime::definition::{ProjectionDefinition, ProjectionKind},
};

/// Status of a projection of an app.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ProjectionStatus {
    /// Its durable name.
    pub name: &'static str,
    /// The way in which it keeps its rows.
    pub kind: ProjectionKind,
    /// All events up to this position are included.
    pub position: Position,
    /// Number of positions between `position` and the end of the store: at most so many events are not included yet.
    pub lag: u64,
    /// The process that feeds it.
    pub owner: ProjectionOwner,
    /// The process that rebuilds it through copies of its tables at the moment, this one or a different one.
    pub rebuilding: Option<RebuildOwner>,
    /// Number of events that it skips, see [`App::skip_event`](crate::App::skip_event).
    pub skipped: u64,
    /// The error that stopped it: [`ProjectionError::Stopped`] with the position and the error of its method, an error
    /// in its attribute, or the shutdown of the app.
    #[serde(serialize_with = "shown::text")]
    pub stopped: Option<ProjectionError>,
    /// The error that makes the feed, the checkpoint or the transaction unavailable at the moment.
    pub trouble: Option<String>,
    /// Time of the first such error.
    #[serde(serialize_with = "shown::time")]
    pub trouble_since: Option<OffsetDateTime>,
    /// Time of the stop, which the retries of every minute do not change.
    #[serde(serialize_with = "shown::time")]
    pub stopped_since: Option<OffsetDateTime>,
}

/// The process that rebuilds a projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RebuildOwner {
    /// Its name: host, process id, and random digits that tell starts apart.
    #[serde(serialize_with = "shown::display")]
    pub owner: Name,
    /// Start of the rebuild; `None` if the store keeps no notes.
    #[serde(serialize_with = "shown::time")]
    pub since: Option<OffsetDateTime>,
}

/// The process that feeds a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProjectionOwner {
    /// This process. Every process feeds state in memory.
    Here,
    /// A different process, or none until one takes over; this one stands by and follows the checkpoint.
    Elsewhere,
    /// Not this process, which stopped, see [`ProjectionStatus::stopped`]; a different one may feed it.
    Stopped,
}

impl ProjectionStatus {
    pub(super) fn new(
        definition: &ProjectionDefinition,
        progress: &ProjectionProgress,
        head: Position,
        skipped: u64,
    ) -> Self {
        let stopped = progress.end_reason(definition.name);
        let owner = match (&stopped, definition.kind) {
            (Some(_), _) => ProjectionOwner::Stopped,
            (None, ProjectionKind::InMemory) => ProjectionOwner::Here,
            (None, _) if progress.is_owner => ProjectionOwner::Here,
            (None, _) => ProjectionOwner::Elsewhere,
        };
        Self {
            name: definition.name,
            kind: definition.kind,
            position: progress.position,
            lag: head.get().saturating_sub(progress.position.get()),
            owner,
            rebuilding: None,
            skipped,
            stopped,
            trouble: progress.problem.clone(),
            trouble_since: progress.problem_since,
            stopped_since: progress.stopped_since.filter(|_| progress.stopped.is_some()),
        }
    }
}
