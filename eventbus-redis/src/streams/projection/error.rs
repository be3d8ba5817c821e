//! The error of a projection.

use eventbus::{BoxError, port::MessageId};

use crate::{
    RedisCommandError,
    streams::{EntryError, StreamEntry},
};

/// Reason why a projection over a stream stops. If it names an entry, the entries before it are written, and the
/// checkpoint is after them; that entry is not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamProjectionError {
    /// The name of the projection is not valid; it read and wrote no key.
    #[error("`{}` is not a valid name of a projection: {reason}", projection.escape_debug())]
    InvalidName {
        /// The name.
        projection: String,
        /// The reason.
        reason: BoxError,
    },
    /// An entry has no type, or its data does not decode for the handler of its type.
    /// [`skip_if`](super::EventProjection::skip_if) skips it.
    #[error("projection `{projection}` cannot read an entry of `{stream}`")]
    Entry {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The entry, its field, and the reason.
        source: EntryError,
    },
    /// A handler has failed.
    #[error("projection `{projection}` stopped before entry {entry} (`{event_type}`) of `{stream}`")]
    Handler {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The entry.
        entry: MessageId,
        /// Its type.
        event_type: String,
        /// The handler's error.
        source: BoxError,
    },
    /// The server refuses a command of a handler, or the key is reserved for projections.
    #[error("projection `{projection}` cannot write `{command}` to `{key}` for entry {entry}")]
    Effect {
        /// The projection.
        projection: String,
        /// The entry.
        entry: MessageId,
        /// The key.
        key: String,
        /// The command.
        command: String,
        /// The reason.
        source: BoxError,
    },
    /// The server is a node of a cluster, and the keys of one step are not in one slot.
    #[error("projection `{projection}`: `{key}` and `{checkpoint}` are in different slots, give them one hash tag")]
    OtherSlot {
        /// The projection.
        projection: String,
        /// The key.
        key: String,
        /// The key of the checkpoint.
        checkpoint: String,
    },
    /// Entries that the projection had not processed are gone: another program, a publisher with a maximum length, or
    /// [`trim_may_lose`](crate::streams::RedisStreams::trim_may_lose) trimmed them, or the stream was made anew.
    /// [`rebuild`](super::EventProjection::rebuild) begins with the entries that remain,
    /// [`set_checkpoint_after`](super::EventProjection::set_checkpoint_after) continues without them.
    #[error(
        "projection `{projection}`: {} of `{stream}` after {after} were removed before it had processed them",
        entries_text(.entries)
    )]
    Missing {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The checkpoint, after which they were; `0-0` before the first entry.
        after: MessageId,
        /// Their number; `None` if it is unknown, and may be zero: the stream was made anew, the projection was
        /// [retired](super::EventProjection::retire), or another program set its checkpoint.
        entries: Option<u64>,
    },
    /// The server did not run the step, or its reply was lost: all writes of the step were made, or none. The
    /// checkpoint shows which.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

impl StreamProjectionError {
    /// Returns `true` if a retry can succeed without an operator's action.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Command(error) if error.is_retryable())
    }

    /// Returns `true` if a single entry stopped the projection: it cannot be read, its handler failed, or the server
    /// refuses the handler's writes. The projection continues once the entry, or the key, is repaired or deleted.
    #[must_use]
    pub const fn is_entry_error(&self) -> bool {
        matches!(self, Self::Entry { .. } | Self::Handler { .. } | Self::Effect { .. })
    }

    /// Returns the error for a command of an entry that cannot be written.
    pub(super) fn effect(name: &str, entry: &StreamEntry, key: &str, command: &str, reason: &str) -> Self {
        Self::Effect {
            projection: name.into(),
            entry: entry.id.clone(),
            key: key.into(),
            command: command.into(),
            source: reason.into(),
        }
    }
}

fn entries_text(count: &Option<u64>) -> String {
    count.map_or_else(|| "perhaps entries".to_owned(), |count| format!("{count} entries"))
}
