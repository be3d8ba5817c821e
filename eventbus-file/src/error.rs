//! The error of a queue's operations; each names the file or the id.

use std::{io, path::PathBuf};

use eventbus::{BoxError, EventId, event::FieldError};

/// Error of an operation on a queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileQueueError {
    /// The file system refused a step. The operation had no effect; or, if the caller asked for several items, a part
    /// of it; or, if the file system refused only to sync a folder, its whole effect.
    #[error("cannot {what} `{path}`")]
    Io {
        /// The refused step, a verb phrase.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file does not hold what its name says: it is cut off, or a foreign program wrote it. The queue leaves it as it
    /// is.
    #[error("`{path}` holds no {what}")]
    Torn {
        /// The content that its name promises.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: BoxError,
    },
    /// A newer release wrote the folder in a format that this release does not know; this release leaves all files as
    /// they are.
    #[error(
        "`{path}` records format {format}, which takes a release that knows format {min_reader}; this one knows format \
         {known}: use a newer release"
    )]
    FormatTooNew {
        /// The file that records the format.
        path: PathBuf,
        /// The recorded format.
        format: u32,
        /// The lowest format that a release must know to work in the folder.
        min_reader: u32,
        /// The highest format that this release knows.
        known: u32,
    },
    /// A value cannot be written as JSON, for example because a number is NaN, or is not JSON of the requested type.
    #[error("{what} is not JSON of that type")]
    Json {
        /// The value, with the id of the event or claim that has it.
        what: String,
        /// The field and what is wrong with it; it quotes no value.
        source: FieldError,
    },
    /// The payload or the attributes of an event are no JSON; the queue wrote no file.
    #[error("event {event_id} cannot be written as JSON")]
    Unwritable {
        /// The event.
        event_id: EventId,
        /// The field and what is wrong with it.
        source: FieldError,
    },
    /// An event has more than 96 MiB as uncompressed JSON, or a different file more than 128 MiB, the most that is
    /// read; the queue did not write it. Store large data elsewhere and publish its name.
    #[error("{} would have {bytes} bytes as JSON, at most {most} are written", too_large_subject(.event_id))]
    TooLarge {
        /// The event; `None` if it is a claim, a result or the like.
        event_id: Option<EventId>,
        /// Its size in bytes.
        bytes: u64,
        /// The largest allowed size in bytes.
        most: u64,
    },
    /// An id or a name cannot be the name of a file.
    #[error("invalid {what} `{value}`: {reason}")]
    InvalidName {
        /// The kind of name.
        what: &'static str,
        /// The name, cut to 40 characters.
        value: String,
        /// The reason.
        reason: &'static str,
    },
    /// A different worker owns the claim, or it expired, or its owner released it: the operation has no effect.
    #[error("claim `{claim_id}` of epoch {epoch} is not, or no longer, this worker's")]
    ClaimLost {
        /// The claim.
        claim_id: String,
        /// The epoch that the caller named.
        epoch: u64,
    },
    /// The event already has its one result.
    #[error("event {event_id} has a result already")]
    HasResult {
        /// The event.
        event_id: u64,
    },
    /// A payload cannot be written as JSON, for example because a number is NaN.
    #[error("the payload cannot be encoded: {0}")]
    Payload(#[source] FieldError),
    /// A setting is invalid.
    #[error("setting `{setting}` {reason}")]
    InvalidConfig {
        /// The setting.
        setting: &'static str,
        /// The rule that it breaks.
        reason: String,
    },
    /// The async runtime ended before the operation ran.
    #[error("the runtime is shutting down")]
    RuntimeEnded,
    /// The application shut the queue down.
    #[error("the queue is shut down")]
    ShutDown,
}

/// The refused step of [`FileQueueError::Io`] while the folder of the queue is missing.
pub(crate) const FIND_FOLDER: &str = "find folder";

fn too_large_subject(event_id: &Option<EventId>) -> String {
    event_id.map_or_else(|| "the content".into(), |id| format!("event {id}"))
}

impl FileQueueError {
    /// Returns `true` if repeating the call can succeed without a change by the caller or an operator.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    pub(crate) fn is_folder_missing(&self) -> bool {
        matches!(self, Self::Io { what: FIND_FOLDER, .. })
    }

    /// Returns the error with its causes, for the log.
    pub(crate) fn log(&self) -> &(dyn std::error::Error + 'static) {
        self
    }

    pub(crate) fn invalid_name(what: &'static str, value: &str, reason: &'static str) -> Self {
        Self::InvalidName { what, value: value.chars().take(40).collect(), reason }
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
