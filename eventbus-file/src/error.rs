//! What goes wrong with a queue of files; each error names the file or the id.

use std::{io, path::PathBuf};

use eventbus::{BoxError, EventId, FieldError, Name};

/// Why something on a queue was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileQueueError {
    /// The file system refused; what was to be done is not done, or may be done in part where several were asked for.
    #[error("cannot {what} `{path}`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what its name says: it is cut off, or somebody else wrote it. It is left alone.
    #[error("`{path}` holds no {what}")]
    Torn {
        /// What its name says.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BoxError,
    },
    /// A value cannot be written as JSON, for example as a number is NaN, or is not JSON of the type that was asked for.
    #[error("{what} is not JSON of that type")]
    Json {
        /// The value, with the id of the event or claim that has it.
        what: String,
        /// The field and what is wrong with it; it quotes no value.
        source: FieldError,
    },
    /// An event cannot be written, as its payload or its attributes are no JSON; no file was made.
    #[error("event {event_id} cannot be written as JSON")]
    Unwritable {
        /// The event.
        event_id: EventId,
        /// What is wrong with it, and where.
        source: FieldError,
    },
    /// A file would be larger than any that is read; it was not made. Large data has a place of its own, and its name goes
    /// into the event.
    #[error("{} would have {bytes} bytes as a file, at most {most} are written", too_large_subject(.event_id))]
    TooLarge {
        /// The event; `None` if it is a claim, a result or the like.
        event_id: Option<EventId>,
        /// How many bytes it would have.
        bytes: u64,
        /// How many it may have.
        most: u64,
    },
    /// An id or a name cannot be that of a file.
    #[error("invalid {what} `{value}`: {reason}")]
    InvalidName {
        /// What it should name.
        what: &'static str,
        /// The name, cut to 40 characters.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// A worker consumes for the group, and only that worker may change the group's progress.
    #[error("a worker consumes for group `{group}`: stop it first")]
    GroupInUse {
        /// The group.
        group: Name,
    },
    /// The claim is another worker's, or ran out, or was released: what is done about it counts for nothing.
    #[error("claim `{claim_id}` of epoch {epoch} is not, or no longer, this worker's")]
    ClaimLost {
        /// The claim.
        claim_id: String,
        /// The epoch that is over.
        epoch: u64,
    },
    /// The event has its one result already.
    #[error("event {event_id} has a result already")]
    HasResult {
        /// The event.
        event_id: u64,
    },
    /// A payload cannot be written as JSON, for example as a number is NaN.
    #[error("the payload cannot be encoded: {0}")]
    Payload(#[source] FieldError),
    /// A setting does not make sense.
    #[error("setting `{setting}` {reason}")]
    InvalidConfig {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The async runtime ended before the file system was asked.
    #[error("the runtime is shutting down")]
    RuntimeEnded,
    /// The queue was shut down.
    #[error("the queue is shut down")]
    ShutDown,
}

/// What is tried in vain while the folder of the queue is not there.
pub(crate) const FIND_FOLDER: &str = "find folder";

fn too_large_subject(event_id: &Option<EventId>) -> String {
    event_id.map_or_else(|| "what was to be written".into(), |id| format!("event {id}"))
}

impl FileQueueError {
    /// Whether doing it again can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    /// Whether the folder of the queue is not there now.
    pub(crate) fn is_folder_missing(&self) -> bool {
        matches!(self, Self::Io { what: FIND_FOLDER, .. })
    }

    /// With its causes, for the log.
    pub(crate) fn log(&self) -> &(dyn std::error::Error + 'static) {
        self
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn json<E: Into<FieldError>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Json { what, source: source.into() }
    }

    pub(crate) fn torn(what: &'static str, path: impl Into<PathBuf>, source: impl Into<BoxError>) -> Self {
        Self::Torn { what, path: path.into(), source: source.into() }
    }
}

pub(crate) type Result<T, E = FileQueueError> = std::result::Result<T, E>;
