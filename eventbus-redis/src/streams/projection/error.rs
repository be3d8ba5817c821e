//! Why a projection does not go on.

use eventbus::{BoxError, port::MessageId};

use crate::{EntryError, RedisCommandError};

/// Why a projection over a stream does not go on. What came before the entry that it names is written, and the
/// checkpoint is there; that entry is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamProjectionError {
    /// An entry has no type, or its data is not what the handler of its type takes.
    #[error("projection `{projection}` cannot read an entry")]
    Entry {
        /// The projection.
        projection: String,
        /// The entry, its field, and what is wrong.
        source: EntryError,
    },
    /// A handler has failed.
    #[error("projection `{projection}` stopped before entry {entry} (`{event_type}`)")]
    Handler {
        /// The projection.
        projection: String,
        /// The entry.
        entry: MessageId,
        /// Its type.
        event_type: String,
        /// What the handler said.
        source: BoxError,
    },
    /// The server refuses what a handler writes, or the key is one of the projections' own.
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
        /// What is wrong with it.
        source: BoxError,
    },
    /// The server is a node of a cluster, and what is to be written in one step is not in one slot there.
    #[error("projection `{projection}`: `{key}` and `{checkpoint}` are in different slots, give them one hash tag")]
    OtherSlot {
        /// The projection.
        projection: String,
        /// The key.
        key: String,
        /// The key of the checkpoint.
        checkpoint: String,
    },
    /// Another rebuild of the same projection was begun after this one, or somebody removed its copies; it has changed
    /// nothing that is served.
    #[error(
        "this rebuild of projection `{projection}` has lost its copies: somebody began another one, or removed them"
    )]
    Superseded {
        /// The projection.
        projection: String,
    },
    /// The server did not do it. What was to be written is written completely or not at all, and the checkpoint tells.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

impl StreamProjectionError {
    /// Whether going on can succeed without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Command(error) if error.is_retryable())
    }
}
