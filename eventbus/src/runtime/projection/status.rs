//! How a projection is doing.

use serde::Serialize;
use time::OffsetDateTime;

use super::{ProjectionError, progress::ProjectionProgress};
use crate::{
    domain::{name::Name, shown, stream::Position},
    runtime::definition::{ProjectionDefinition, ProjectionKind},
};

/// How a projection of an app is doing.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ProjectionStatus {
    /// Its durable name.
    pub name: &'static str,
    /// How it keeps its rows.
    pub kind: ProjectionKind,
    /// Everything up to here is included.
    pub position: Position,
    /// How many positions it is behind the end of the store: at most so many events are not included yet.
    pub lag: u64,
    /// Who feeds it.
    pub owner: ProjectionOwner,
    /// Who rebuilds it through copies of its tables at the moment, in this process or another.
    pub rebuilding: Option<RebuildOwner>,
    /// How many events it skips, see [`App::skip_event`](crate::App::skip_event).
    pub skipped: u64,
    /// Why it does not go on, if it stopped: [`ProjectionError::Stopped`] with the position and the error, what its
    /// attribute names wrongly, or that the app was shut down.
    #[serde(serialize_with = "shown::text")]
    pub stopped: Option<ProjectionError>,
    /// Why the feed, the checkpoint or the transaction is not available at the moment, if so.
    pub trouble: Option<String>,
    /// Since when that is so.
    #[serde(serialize_with = "shown::time")]
    pub trouble_since: Option<OffsetDateTime>,
    /// Since when it is stopped, also while it tries again, as it does every minute.
    #[serde(serialize_with = "shown::time")]
    pub stopped_since: Option<OffsetDateTime>,
}

/// Who rebuilds a projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RebuildOwner {
    /// The process: host, process id, and digits that no other start has.
    #[serde(serialize_with = "shown::display")]
    pub owner: Name,
    /// Since when; `None` if its store keeps no notes.
    #[serde(serialize_with = "shown::time")]
    pub since: Option<OffsetDateTime>,
}

/// Who feeds a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProjectionOwner {
    /// This process. State in memory is fed in every process.
    Here,
    /// Another process, or nobody until one takes over; this one follows the checkpoint and stands by.
    Elsewhere,
    /// Not this process, and nobody if it is the only one: it stopped, as [`ProjectionStatus::stopped`] says.
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
