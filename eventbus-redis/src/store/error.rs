//! What errors of Redis mean to users of the store.

use eventbus::{
    BoxError, StreamId,
    port::{AppendError, ReadError},
};
use redis::RedisError;

use crate::{command, connection::CommandError, fault};

/// Something in a key of the store that the store has not written, or not so.
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

/// A key that holds something else than the store would keep there.
pub(crate) fn corrupt_key(key: &str, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(format!("key `{key}`"), source)
}

/// A read that failed; `key` is what was asked for.
pub(crate) fn read_error(key: &str, error: CommandError) -> ReadError {
    match error {
        CommandError::Sent(error) if error.code() == Some("WRONGTYPE") => corrupt_key(key, error),
        error => ReadError::Unavailable(crate::connection::boxed(error)),
    }
}

/// An append that failed as a whole.
pub(crate) fn append_error(stream: &StreamId, error: CommandError) -> AppendError {
    match error {
        CommandError::NotSent(text) => AppendError::Unavailable(text.into()),
        CommandError::Sent(error) if is_refused(&error) => {
            AppendError::Refused { stream: stream.clone(), source: error.into() }
        }
        CommandError::Sent(error) if command::is_not_executed(&error) => AppendError::Unavailable(error.into()),
        CommandError::Sent(error) => AppendError::OutcomeUnknown(error.into()),
    }
}

/// What a script found that compared the last entry of a key with their number.
pub(crate) fn corrupt_last_entry(key: &str, entry: &str) -> CorruptEntry {
    CorruptEntry::new(
        key,
        entry,
        "it is not what the store has written last: entries were added by somebody else, or removed",
    )
}

/// Whether the server refuses for good, until somebody changes something.
pub(crate) fn is_refused(error: &RedisError) -> bool {
    fault::fault_of_reply(error).is_none()
        && (command::is_refusal(error) || command::is_wrong_server(error) || error.code() == Some("ERR"))
}
