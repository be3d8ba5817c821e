//! Why a projection does not go on, cannot be read, or cannot be rebuilt.

use std::time::Duration;

use crate::{domain::stream::Position, port::ReadError};

/// Why a projection does not go on, or cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// The app has no such projection.
    #[error(
        "the app has no projection `{name}` (it has: {}); give the builder `.discover()` or `.projection(..)`; a crate \
         that the binary never names is not linked",
        if known.is_empty() { "none".into() } else { known.join(", ") }
    )]
    NotRunning {
        /// The projection asked for.
        name: &'static str,
        /// The projections it has, sorted.
        known: Vec<&'static str>,
    },
    /// An event could not be handled: the projection stays before it until it is rebuilt or the app is started anew.
    #[error("projection `{name}` stopped at position {position}: {error}")]
    Stopped {
        /// The projection.
        name: &'static str,
        /// The position of the event.
        position: Position,
        /// What its method said.
        error: String,
    },
    /// Its app was shut down before it got that far.
    #[error("projection `{name}` is at position {position} and not fed any more: its app was shut down")]
    ShutDown {
        /// The projection.
        name: &'static str,
        /// Where it is.
        position: Position,
    },
    /// Its state was in use for too long: a guard was not let go, or the method that handles an event does not end.
    #[error("projection `{name}` could not be read within {timeout:?}: an event is being handled, or a guard is held")]
    Busy {
        /// The projection.
        name: &'static str,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// It did not get that far in time.
    #[error("projection `{name}` is at position {position}, {wanted} was not reached within {timeout:?}: {trouble}")]
    TimedOut {
        /// The projection.
        name: &'static str,
        /// Where it is.
        position: Position,
        /// Where it should have been.
        wanted: Position,
        /// How long it was waited for.
        timeout: Duration,
        /// What keeps it.
        trouble: String,
    },
}

/// Why a projection could not be rebuilt; its former state still stands, if it is kept in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// There is no way to make a new instance: it was given as a value.
    #[error("projection `{name}` was given as a value; give the builder `.projection_with(..)`, or derive `Default`")]
    NoFactory {
        /// The projection.
        name: &'static str,
    },
    /// The app has no such projection, or was shut down.
    #[error(transparent)]
    NotRunning(ProjectionError),
    /// Its former state was in use for too long: a guard was not let go, or the method that handles an event does not
    /// end.
    #[error(
        "projection `{name}` could not be replaced within {timeout:?}: an event is being handled, or a guard is held"
    )]
    Busy {
        /// The projection.
        name: &'static str,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// Its rows are its own, so only a running app can replay events into them.
    #[error("projection `{name}` keeps its rows itself; an app rebuilds it: `app.rebuild::<..>()`")]
    NotInMemory {
        /// The projection.
        name: &'static str,
    },
    /// An event could not be handled.
    #[error("projection `{name}` cannot handle the event at position {position}: {error}")]
    Failed {
        /// The projection.
        name: &'static str,
        /// The position of the event.
        position: Position,
        /// What its method said.
        error: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<ProjectionError> for RebuildError {
    fn from(error: ProjectionError) -> Self {
        match error {
            ProjectionError::Stopped { name, position, error } => Self::Failed { name, position, error },
            ProjectionError::Busy { name, timeout } => Self::Busy { name, timeout },
            error => Self::NotRunning(error),
        }
    }
}
