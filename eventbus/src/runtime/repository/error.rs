//! The errors of loading, saving and updating an aggregate.

use std::{iter, sync::Arc};

use tokio::task::JoinError;
use uuid::Uuid;

use crate::{
    domain::{
        codec::{DecodeError, EncodeError},
        field_error::FieldError,
        idempotency_key::IdempotencyKey,
        shown,
        stream::{StreamId, Version},
        tag::InvalidTag,
    },
    port::{AppendError, ReadError, SnapshotError},
};

/// A load of an aggregate that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It has no events.
    #[error("aggregate `{stream}` does not exist")]
    NotFound {
        /// Its stream.
        stream: StreamId,
    },
    /// It has fewer events than the caller wants.
    #[error("aggregate `{stream}` is at version {actual}, version {wanted} is not reached yet")]
    VersionNotReached {
        /// Its stream.
        stream: StreamId,
        /// The version that the caller wants.
        wanted: Version,
        /// The version it has.
        actual: Version,
    },
    /// One of its events has a type that the aggregate does not list, or fields that do not fit.
    #[error("event {version} of aggregate `{stream}` cannot be decoded{}", remedy(source))]
    Decode {
        /// Its stream.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The decoder's error.
        source: DecodeError,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Returns what to do about an event that an aggregate does not know; empty for other errors.
fn remedy(error: &DecodeError) -> String {
    match error {
        DecodeError::UnknownType { event_type, .. } => format!(
            ": if the event was renamed, add `#[event(was(\"{event_type}\"))]` to it; else list it in `events(..)` of the \
             aggregate; `retired(\"{event_type}\")` skips it, and its effect on the state is lost"
        ),
        _ => String::new(),
    }
}

impl LoadError {
    /// Returns `true` if the aggregate has no events.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// The history of an aggregate that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The aggregate does not exist or cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A state cannot be written as JSON.
    #[error("the state of aggregate `{stream}` at version {version} cannot be written as JSON: {source}")]
    State {
        /// Its stream.
        stream: StreamId,
        /// The version of the state; 0 is that before the first event.
        version: Version,
        /// The field, and the reason.
        source: FieldError,
    },
}

/// A snapshot that was not taken or not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeSnapshotError {
    /// The aggregate has no `snapshot(..)`, or the store keeps no snapshots.
    #[error("{reason}")]
    Unsupported {
        /// What is missing.
        reason: &'static str,
    },
    /// The aggregate does not exist or cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state cannot be kept as JSON.
    #[error("the state of aggregate `{stream}` cannot be kept in a snapshot: {reason}")]
    State {
        /// Its stream.
        stream: StreamId,
        /// The field, and the reason.
        reason: String,
    },
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] SnapshotError),
}

impl TakeSnapshotError {
    /// Returns `true` if the runtime ended before the store had answered: a task of the store was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        let errors = iter::successors(Some(self as &(dyn std::error::Error + 'static)), |error| error.source());
        errors.filter_map(|error| error.downcast_ref::<JoinError>()).any(JoinError::is_cancelled)
    }
}

/// A unique value that could not be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindByError {
    /// No event of the aggregate takes a unique value of this name.
    #[error("no event of the aggregate has `unique({name})` (known: {})", if known.is_empty() { "none".into() } else { known.join(", ") })]
    UnknownName {
        /// The name.
        name: String,
        /// The names of its unique values, sorted.
        known: Vec<&'static str>,
    },
    /// The store has no unique values.
    #[error("{store} has no unique values")]
    Unsupported {
        /// The store.
        store: String,
    },
    /// The store could not be asked for the holder.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The aggregate could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// A decision whose tags do not fit, or whose events cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BoundaryError {
    /// It names no tag: a decision about all events would make all writers wait for each other.
    #[error("a decision is about something: name a tag, `.about(\"course\", &course)`")]
    Everything,
    /// None of its events has a tag of this name.
    #[error("no event of the decision has `tags({name})` (known: {})", known.join(", "))]
    UnknownTag {
        /// The name.
        name: String,
        /// The names of the tags of its events, sorted.
        known: Vec<&'static str>,
    },
    /// None of its events has all these tags together.
    #[error("no event of the decision has all of the tags {}", names.join(", "))]
    NeverTogether {
        /// The names of the tags.
        names: Vec<String>,
    },
    /// It is about all events of its types, and one of these types does not declare `tags(event_type)`.
    #[error("a decision about all events of type `{event_type}` needs `#[event(.., tags(event_type))]` on the event")]
    UndeclaredType {
        /// The wire name of the event.
        event_type: &'static str,
    },
    /// A value is no tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    /// The store has no tags.
    #[error("{store} has no tags")]
    Unsupported {
        /// The store.
        store: String,
    },
    /// Its events could not be read.
    #[error(transparent)]
    Load(Arc<LoadError>),
}

impl From<LoadError> for BoundaryError {
    fn from(error: LoadError) -> Self {
        Self::Load(Arc::new(error))
    }
}

/// A save of an aggregate that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The append failed, or its outcome is unknown.
    // not transparent: the inbox of a handler finds a conflict among the sources of the handler's error
    #[error("{0}")]
    Append(#[from] AppendError),
    /// An event cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The aggregate, or the context of the save, belongs to a different tenant than the repository.
    #[error(
        "a repository of {} does not save what belongs to {} (aggregate `{stream}`); to repair: \
         `repository.for_tenant(..)`",
        shown::tenant(stream.tenant_id()),
        shown::tenant(*found)
    )]
    OtherTenant {
        /// The stream that the repository would save to.
        stream: StreamId,
        /// The tenant of the aggregate or of the context.
        found: Option<Uuid>,
    },
    /// The store saves one aggregate at a time only, so several cannot be saved together.
    #[error("{store} saves one aggregate at a time only, not several together")]
    MultiStreamUnsupported {
        /// The store.
        store: String,
    },
}

impl SaveError {
    /// Returns `true` if a concurrent writer was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Append(error) if error.is_conflict())
    }

    /// Returns `true` if another aggregate holds the unique value of this name, as `email`.
    #[must_use]
    pub fn is_taken(&self, name: &str) -> bool {
        matches!(self, Self::Append(error) if error.is_taken(name))
    }
}

/// An update of an aggregate that failed; `X` is the decision's own refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError<X> {
    /// The decision refused; the repository stored no event and did not retry.
    #[error("{0}")]
    Refused(X),
    /// The aggregate could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The aggregate could not be saved, or a concurrent writer was first at every attempt.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The command cannot take effect [once](crate::AggregateRepository::once).
    #[error(transparent)]
    Once(#[from] OnceError),
    /// The tags of the [decision](crate::App::decision) do not fit, or its events cannot be read.
    #[error(transparent)]
    Boundary(#[from] BoundaryError),
}

/// A command that cannot take effect once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The client has used the key for another command.
    #[error("the idempotency key `{key}` was used for another command")]
    KeyReused {
        /// The key.
        key: IdempotencyKey,
    },
    /// The command cannot be written as JSON, to compare it.
    #[error("the command cannot be written as JSON: {reason}")]
    Unwritable {
        /// The message of the serializer.
        reason: String,
    },
    /// The answer of the first call cannot be made again.
    #[error("the answer of the command with the idempotency key `{key}` cannot be made again: {reason}")]
    Answer {
        /// The key.
        key: IdempotencyKey,
        /// What is wrong with the stored note or events.
        reason: String,
    },
    /// The store notes no commands.
    #[error("{store} notes no commands")]
    Unsupported {
        /// The store.
        store: String,
    },
    /// The repository belongs to a handler.
    #[error("the saves of a handler take effect once by themselves, without an idempotency key")]
    InHandler,
}

impl<X> UpdateError<X> {
    /// Returns `true` if the effect of a concurrent copy of the same command may be the reason for the error.
    pub(super) fn may_come_from_copy(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Save(SaveError::Append(error)) => error.is_conflict() || matches!(error, AppendError::Taken { .. }),
            _ => false,
        }
    }

    /// Returns `true` if the client has used the idempotency key for another command.
    #[must_use]
    pub const fn is_key_reused(&self) -> bool {
        matches!(self, Self::Once(OnceError::KeyReused { .. }))
    }

    /// Returns the decision's refusal, if it refused.
    #[must_use]
    pub fn refused(&self) -> Option<&X> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Returns `true` if a concurrent writer was first at every attempt.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Save(error) if error.is_conflict())
    }

    /// Returns `true` if another aggregate holds the unique value of this name, as `email`.
    #[must_use]
    pub fn is_taken(&self, name: &str) -> bool {
        matches!(self, Self::Save(error) if error.is_taken(name))
    }

    /// Returns `true` if the aggregate has no events.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Load(error) if error.is_not_found())
    }
}
