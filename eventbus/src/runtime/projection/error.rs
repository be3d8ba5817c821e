//! Errors of feeding, reading and rebuilding projections.

use std::time::Duration;

use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{MissingEvent, ReadError, delivery::HandlerError},
};

/// An error that stops a projection, or keeps it from being read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// The app has no such projection, or a projection of a different type has this name.
    #[error("{}", describe_not_running(name, known))]
    NotRunning {
        /// The requested projection.
        name: &'static str,
        /// The projections that the app has, sorted.
        known: Vec<&'static str>,
    },
    /// An event could not be handled. The projection stays before it, and retries it every minute and when it is
    /// rebuilt or resumed. For a retry, state in memory is rebuilt, if the app can make a new instance.
    #[error("projection `{name}` stopped at position {position}: {error}")]
    Stopped {
        /// The projection.
        name: &'static str,
        /// The position of the event.
        position: Position,
        /// The error of its method.
        error: String,
    },
    /// The store was replaced by an older copy, and the state in memory includes events that it lacks. The state is folded
    /// anew in a new instance; without a factory the process must be started again. It is not ready meanwhile.
    #[error(
        "projection `{name}` includes events that the store does not have: an older copy has replaced it; the state is folded \
         anew, or, if the app cannot make a new instance, start the process again"
    )]
    WentBack {
        /// The projection.
        name: &'static str,
    },
    /// The store cannot read an event at this position or after it. The projection stays before it, and retries every
    /// minute and when it is rebuilt or resumed.
    #[error("projection `{name}` stopped before position {position}: {error}")]
    Damaged {
        /// The projection.
        name: &'static str,
        /// The position before which all events are handled.
        position: Position,
        /// The event that cannot be read, and why.
        error: String,
    },
    /// An older release that did not know these types fed the projection, which misses their events up to this
    /// position.
    ///
    /// [`App::rebuild`](crate::App::rebuild) brings rows elsewhere up to date. The app rebuilds rows in the store as
    /// soon as the attribute names their tables; without the names it cannot replace them. If the rows are right all
    /// the same, or an operator has corrected them, accept them with
    /// [`App::accept_missed_events`](crate::App::accept_missed_events).
    #[error(
        "projection `{name}` misses events of type `{types}` up to position {position}, as an older release did not know \
         them: {}; if its rows are right all the same, call `app.accept_missed_events`",
        if *is_elsewhere {
            "rebuild it with `app.rebuild`"
        } else {
            "name its tables in the attribute, as in `tables(\"orders\")`, and the app rebuilds it (`app.rebuild` needs \
             them, too)"
        }
    )]
    MissedEvents {
        /// The projection.
        name: &'static str,
        /// The position up to which it was fed.
        position: Position,
        /// The types.
        types: String,
        /// Set if its rows are elsewhere than in the store's transaction.
        is_elsewhere: bool,
    },
    /// The attribute names a table that the store does not have, so its rows could not be rebuilt. The projection
    /// commits no rows.
    #[error(
        "projection `{name}` names `tables(\"{table}\")`, but the store has no such table: name those that its methods \
         write, and create them before the app starts"
    )]
    NoTable {
        /// The projection.
        name: &'static str,
        /// The table.
        table: &'static str,
    },
    /// A table lacks the column that the attribute names for the aggregate's id. The projection commits no rows.
    #[error("projection `{name}` names `key = \"{column}\"`, but its table `{table}` has no such column")]
    NoColumn {
        /// The projection.
        name: &'static str,
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// An event may be half handled, so the state cannot be resumed, only rebuilt.
    #[error("projection `{name}` keeps its state in memory, where an event may be half handled: rebuild it")]
    InMemory {
        /// The projection.
        name: &'static str,
    },
    /// The app was shut down before the projection reached the position.
    #[error("projection `{name}` is at position {position} and not fed any more: its app was shut down")]
    ShutDown {
        /// The projection.
        name: &'static str,
        /// Its position.
        position: Position,
    },
    /// Its state was in use for too long: a guard was not dropped, or the method that handles an event does not end.
    #[error("projection `{name}` could not be read within {timeout:?}: an event is being handled, or a guard is held")]
    Busy {
        /// The projection.
        name: &'static str,
        /// The time limit.
        timeout: Duration,
    },
    /// The projection did not reach the position in time.
    #[error("projection `{name}` is at position {position}, {wanted} was not reached within {timeout:?}: {problem}")]
    TimedOut {
        /// The projection.
        name: &'static str,
        /// Its position.
        position: Position,
        /// The position that the caller waited for.
        wanted: Position,
        /// The time limit.
        timeout: Duration,
        /// The reason for the delay.
        problem: String,
    },
}

impl ProjectionError {
    /// Returns the message without the text of the projection's method or the store, which may hold values of events.
    pub(crate) fn to_redacted_string(&self) -> String {
        match self {
            Self::Stopped { name, position, .. } => {
                format!("projection `{name}` stopped at position {position}: the log says why")
            }
            Self::Damaged { name, position, .. } => {
                format!(
                    "projection `{name}` stopped before position {position}, the store cannot read an event: the log says why"
                )
            }
            error => error.to_string(),
        }
    }
}

fn describe_not_running(name: &'static str, known: &[&'static str]) -> String {
    if known.contains(&name) {
        return format!(
            "the app runs another type as projection `{name}`: ask for that one, or give this one a `name` of its own"
        );
    }
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    format!(
        "the app has no projection `{name}` (it has: {known}); give the builder `.discover()` or `.projection(..)`; a crate \
         that the binary never names is not linked"
    )
}

/// Error of rebuilding a projection; state in memory is unchanged then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The app cannot make a new instance, as it was given a value.
    #[error("projection `{name}` was given as a value; give the builder `.projection_with(..)`, or derive `Default`")]
    NoFactory {
        /// The projection.
        name: &'static str,
    },
    /// The app has no such projection, or was shut down.
    #[error(transparent)]
    NotRunning(ProjectionError),
    /// Its former state was in use for too long: a guard was not dropped, or the method that handles an event does not
    /// end.
    #[error(
        "projection `{name}` could not be replaced within {timeout:?}: an event is being handled, or a guard is held"
    )]
    Busy {
        /// The projection.
        name: &'static str,
        /// The time limit.
        timeout: Duration,
    },
    /// The projection keeps its rows itself, so only a running app can replay events into them.
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
        /// The error of its method.
        error: String,
    },
    /// An event is missing that the store had: other software removed it. The former state or rows stay as they were.
    ///
    /// Restore the event from a copy of the store, with its version and position. Until then, rebuilds of all
    /// projections fail, since the missing event may have been of any type.
    #[error(
        "projection `{name}` is not rebuilt, as {missing} is missing: other software removed it; restore it from a copy \
         of the store, then rebuild again"
    )]
    MissingEvent {
        /// The projection.
        name: &'static str,
        /// The event, the first one that was found missing.
        missing: MissingEvent,
    },
    /// The attribute does not name the tables of its rows, so the store cannot replace them.
    #[error(
        "projection `{name}` does not say in which tables its rows are: write \
         `#[projection(name = \"{name}\", tables(\"..\"))]`"
    )]
    NoTables {
        /// The projection.
        name: &'static str,
    },
    /// The attribute does not name the column that says to which aggregate a row belongs.
    #[error(
        "projection `{name}` does not say which rows belong to an aggregate: write \
         `#[projection(name = \"{name}\", tables(\"..\"), key = \"..\")]` with the column of the aggregate id, on methods that \
         take the store's connection"
    )]
    NoKey {
        /// The projection.
        name: &'static str,
    },
    /// A different process rebuilds the projection. Or it feeds a projection that keeps its rows itself: then only that
    /// process can rebuild it.
    #[error("projection `{name}` is rebuilt or fed by {}", owner.as_deref().unwrap_or("another process"))]
    Elsewhere {
        /// The projection.
        name: &'static str,
        /// The name of that process, if the store knows it: host, process id, and more.
        owner: Option<Name>,
    },
    /// A different process took over meanwhile. If it does not rebuild, a second call continues where this one stopped.
    #[error("rebuilding projection `{name}` was taken over by another process")]
    Lost {
        /// The projection.
        name: &'static str,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused to make, fill, replace or remove rows, or could not be reached. A second call continues where
    /// this one stopped.
    #[error("projection `{name}` cannot be rebuilt")]
    Store {
        /// The projection.
        name: &'static str,
        /// The error of the store.
        source: BoxError,
    },
}

impl RebuildError {
    pub(super) fn failed(name: &'static str, position: Option<Position>, error: &HandlerError) -> Self {
        Self::Failed { name, position: position.unwrap_or_default(), error: error.to_string() }
    }

    pub(super) fn store(name: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Store { name, source: source.into() }
    }
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
