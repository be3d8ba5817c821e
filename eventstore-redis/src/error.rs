//! Maps errors of Redis to errors of the store.

use eventbus::{
    BoxError, StreamId,
    port::{AppendError, ReadError},
};
use eventbus_redis_core::{
    error::{CommandError, boxed},
    reply,
};
use redis::RedisError;

use crate::fault;

/// An entry under the store's keys that the store did not write, or not in this form.
#[derive(Debug, thiserror::Error)]
#[error("key `{key}`, entry {entry}")]
pub(crate) struct CorruptEntry {
    key: String,
    entry: String,
    source: BoxError,
}

impl CorruptEntry {
    pub(crate) fn new(key: &str, entry: &str, source: impl Into<BoxError>) -> Self {
        Self { key: key.into(), entry: entry.into(), source: source.into() }
    }
}

impl From<CorruptEntry> for ReadError {
    fn from(damage: CorruptEntry) -> Self {
        Self::corrupt(damage.to_string(), damage.source)
    }
}

/// Returns the error for a key whose contents the store did not write.
pub(crate) fn corrupt_key(key: &str, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(format!("key `{key}`"), source)
}

/// Maps the error of a failed read of `key`.
pub(crate) fn read_error(key: &str, error: CommandError) -> ReadError {
    match error {
        CommandError::Sent(error) if error.code() == Some("WRONGTYPE") => corrupt_key(key, error),
        error => ReadError::Unavailable(boxed(error)),
    }
}

/// Maps the error of a script that appends; `stream` is the first one, if there is any.
pub(crate) fn append_error(stream: Option<&StreamId>, error: CommandError) -> AppendError {
    match (error, stream) {
        (CommandError::Sent(error), Some(stream)) if is_refused(&error) => {
            AppendError::Refused { stream: stream.clone(), source: error.into() }
        }
        (CommandError::Sent(error), _) if !reply::is_not_executed(&error) => AppendError::OutcomeUnknown(error.into()),
        (error, _) => AppendError::Unavailable(boxed(error)),
    }
}

/// Returns the error for a key whose last entry does not fit the number of its entries.
pub(crate) fn corrupt_last_entry(key: &str, entry: &str) -> CorruptEntry {
    CorruptEntry::new(
        key,
        entry,
        "it is not the entry that the store wrote last: a foreign client added or removed entries",
    )
}

/// Returns `true` if the server refuses until its settings, rights or data change.
pub(crate) fn is_refused(error: &RedisError) -> bool {
    fault::fault_of_reply(error).is_none() && (reply::is_refusal(error) || error.code() == Some("ERR"))
}
