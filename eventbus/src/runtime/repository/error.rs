//! Why an aggregate could not be loaded, saved or updated.

use crate::{
    domain::{
        codec::{DecodeError, EncodeError},
        stream::{StreamId, Version},
    },
    port::{AppendError, ReadError},
};

/// Why an aggregate could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It has no events.
    #[error("aggregate `{stream}` does not exist")]
    NotFound {
        /// Its stream.
        stream: StreamId,
    },
    /// It has fewer events than asked for.
    #[error("aggregate `{stream}` is at version {actual}, version {wanted} is not reached yet")]
    VersionNotReached {
        /// Its stream.
        stream: StreamId,
        /// The version asked for.
        wanted: Version,
        /// The version it has.
        actual: Version,
    },
    /// One of its events is of a type the aggregate does not list, or does not fit.
    #[error("event {version} of aggregate `{stream}` cannot be decoded")]
    Decode {
        /// Its stream.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// What is wrong with the event.
        source: DecodeError,
    },
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl LoadError {
    /// Whether the aggregate has no events.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Why an aggregate could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The store did not take the events.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// An event cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl SaveError {
    /// Whether another writer was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Append(error) if error.is_conflict())
    }
}

/// Why an aggregate could not be updated; `X` is the decision's own refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError<X> {
    /// The decision refused; nothing was stored, and it was not tried again.
    #[error("{0}")]
    Refused(X),
    /// The aggregate could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The aggregate could not be saved, also when other writers were first each time.
    #[error(transparent)]
    Save(#[from] SaveError),
}

impl<X> UpdateError<X> {
    /// What the decision said, if it refused.
    #[must_use]
    pub fn refused(&self) -> Option<&X> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether other writers were first each time.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Save(error) if error.is_conflict())
    }

    /// Whether there is no such aggregate.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Load(error) if error.is_not_found())
    }
}
