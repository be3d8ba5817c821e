//! Why a projection does not go on, or cannot be read.

use std::time::Duration;

use crate::domain::stream::Position;

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
    #[error(
        "projection `{name}` is at position {position} and not fed any more: its app was shut down"
    )]
    ShutDown {
        /// The projection.
        name: &'static str,
        /// Where it is.
        position: Position,
    },
    /// Its state was in use for too long: a guard was not let go, or the method that handles an event does not end.
    #[error(
        "projection `{name}` could not be read within {timeout:?}: an event is being handled, or a guard is held"
    )]
    Busy {
        /// The projection.
        name: &'static str,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// It did not get that far in time.
    #[error(
        "projection `{name}` is at position {position}, {wanted} was not reached within {timeout:?}: {trouble}"
    )]
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
