//! Why a projection does not go on, cannot be read, or cannot be rebuilt.

use std::time::Duration;

use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::ReadError,
};

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
    /// An event could not be handled: the projection stays before it and tries it again every minute, and when it is
    /// rebuilt or resumed. State in memory is folded anew for that, if the app can make another instance.
    #[error("projection `{name}` stopped at position {position}: {error}")]
    Stopped {
        /// The projection.
        name: &'static str,
        /// The position of the event.
        position: Position,
        /// What its method said.
        error: String,
    },
    /// The store holds something that cannot be read, at this position or after it: the projection stays before it and
    /// tries again every minute, and when it is rebuilt or resumed.
    #[error("projection `{name}` stopped before position {position}: {error}")]
    Damaged {
        /// The projection.
        name: &'static str,
        /// The position up to which everything before was handled.
        position: Position,
        /// What cannot be read, and why.
        error: String,
    },
    /// An older release fed the projection and did not know these types: their events up to here are missing in it.
    ///
    /// Rows elsewhere are brought up to date by [`App::rebuild`](crate::App::rebuild). Rows in the store are rebuilt as soon
    /// as the attribute names their tables; until then nothing could replace them. Rows that are right all the same, or
    /// were made right by hand, are accepted with [`App::accept_missed_events`](crate::App::accept_missed_events).
    #[error(
        "projection `{name}` was fed up to position {position} by a release that passed events of type `{types}` by: {}; \
         if its rows are right all the same, say so with `app.accept_missed_events`",
        if *is_elsewhere {
            "rebuild it with `app.rebuild`"
        } else {
            "name its tables in the attribute, as in `tables(\"orders\")`, and it is rebuilt by itself (`app.rebuild` needs \
             them, too)"
        }
    )]
    MissedEvents {
        /// The projection.
        name: &'static str,
        /// How far it was fed.
        position: Position,
        /// The types.
        types: String,
        /// Whether its rows are elsewhere than in the store's transaction.
        is_elsewhere: bool,
    },
    /// The store has no table of a name that the attribute gives, so nothing could rebuild its rows. Nothing is committed.
    #[error(
        "projection `{name}` says `tables(\"{table}\")`, but the store has no such table: name those that its methods \
         write, and make them before the app starts"
    )]
    NoTable {
        /// The projection.
        name: &'static str,
        /// The table.
        table: &'static str,
    },
    /// A table lacks the column that the attribute says holds the aggregate's id. Nothing is committed.
    #[error("projection `{name}` says `key = \"{column}\"`, but its table `{table}` has no such column")]
    NoColumn {
        /// The projection.
        name: &'static str,
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// An event was handled half, perhaps, so the state cannot go on: only a rebuild mends it.
    #[error("projection `{name}` keeps its state in memory, where an event may be handled half: rebuild it")]
    InMemory {
        /// The projection.
        name: &'static str,
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
    #[error("projection `{name}` is at position {position}, {wanted} was not reached within {timeout:?}: {problem}")]
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
        problem: String,
    },
}

impl ProjectionError {
    /// The error without what the projection's own method said, which may hold values of events.
    pub(crate) fn to_redacted_string(&self) -> String {
        match self {
            Self::Stopped { name, position, .. } => {
                format!("projection `{name}` stopped at position {position}: the log says why")
            }
            Self::Damaged { name, position, .. } => {
                format!(
                    "projection `{name}` stopped before position {position}, what is stored cannot be read: the log says why"
                )
            }
            error => error.to_string(),
        }
    }
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
    /// It does not say in which tables its rows are, so nothing can replace them.
    #[error(
        "projection `{name}` does not say in which tables its rows are: write \
         `#[projection(name = \"{name}\", tables(\"..\"))]`"
    )]
    NoTables {
        /// The projection.
        name: &'static str,
    },
    /// It does not say which rows belong to which aggregate.
    #[error(
        "projection `{name}` does not say which rows belong to an aggregate: write \
         `#[projection(name = \"{name}\", tables(\"..\"), key = \"..\")]` with the column of the aggregate id, on methods that \
         take the store's connection"
    )]
    NoKey {
        /// The projection.
        name: &'static str,
    },
    /// Another process does what only one can do: it is rebuilding the projection, or feeds one whose rows are its own.
    #[error("projection `{name}` is in the hands of {}", owner.as_deref().unwrap_or("another process"))]
    Elsewhere {
        /// The projection.
        name: &'static str,
        /// Who does, if the store can tell: host, process, and more.
        owner: Option<Name>,
    },
    /// Another process took over meanwhile. Calling it again begins where this one was, if that one is not at it.
    #[error("rebuilding projection `{name}` was taken over by another process")]
    Lost {
        /// The projection.
        name: &'static str,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store refused to make, fill, replace or remove rows, or could not be reached. Calling it again begins where
    /// this one was.
    #[error("projection `{name}` cannot be rebuilt")]
    Store {
        /// The projection.
        name: &'static str,
        /// What the store said.
        source: BoxError,
    },
}

impl RebuildError {
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
