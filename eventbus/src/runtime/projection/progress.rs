//! How far a projection has come.

use tokio::sync::watch;

use super::ProjectionError;
use crate::domain::stream::Position;

/// How far a projection has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) position: Position,
    /// Grows whenever the position was set back: whoever reads the feed starts anew.
    pub(super) generation: u64,
    /// Whether the checkpoint in the store has yet to be set back too.
    pub(super) is_set_back: bool,
    /// Events handled since then.
    pub(super) events: u64,
    pub(super) stopped: Option<ProjectionError>,
    /// Why the feed or the checkpoint is not available at the moment.
    pub(super) trouble: Option<String>,
    /// Whether this process feeds it; another one may do it instead.
    pub(super) is_owner: bool,
    /// Whether the app that fed it does so no more.
    pub(super) ended: bool,
}

impl Progress {
    /// Why the position will not grow any more, if so.
    pub(super) fn why_not_on(&self, name: &'static str) -> Option<ProjectionError> {
        let ended = ProjectionError::ShutDown { name, position: self.position };
        self.stopped.clone().or(self.ended.then_some(ended))
    }
}

/// While it is there, an app feeds the projection.
pub(super) struct Fed<'a>(&'a watch::Sender<Progress>);

impl<'a> Fed<'a> {
    pub(super) fn new(progress: &'a watch::Sender<Progress>) -> Self {
        progress.send_modify(|progress| progress.ended = false);
        Self(progress)
    }
}

impl Drop for Fed<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|progress| progress.ended = true);
    }
}
