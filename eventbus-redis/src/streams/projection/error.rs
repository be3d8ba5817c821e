//! Why a projection does not go on.

use eventbus::{BoxError, port::MessageId};

use crate::{EntryError, RedisCommandError};

/// Why a projection over a stream does not go on. What came before the entry that it names is written, and the
/// checkpoint is there; that entry is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamProjectionError {
    /// Nothing was read or written: the projection cannot be called so.
    #[error("a projection cannot be called `{}`: {reason}", projection.escape_debug())]
    InvalidName {
        /// The name.
        projection: String,
        /// Why not.
        reason: BoxError,
    },
    /// An entry has no type, or its data is not what the handler of its type takes.
    /// [`skip_if`](crate::EventProjection::skip_if) goes on without it.
    #[error("projection `{projection}` cannot read an entry of `{stream}`")]
    Entry {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The entry, its field, and what is wrong.
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
    /// Entries are gone that it had not processed: trimmed by another program, by a publisher with a maximum length, or
    /// by [`trim_may_lose`](crate::RedisStreams::trim_may_lose). [`rebuild`](crate::EventProjection::rebuild) begins with
    /// what is left, [`set_checkpoint_after`](crate::EventProjection::set_checkpoint_after) goes on without them.
    #[error(
        "projection `{projection}`: {} of `{stream}` after {after} are gone that it had not processed",
        entries_text(.entries)
    )]
    Missing {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The checkpoint, behind which they were; `0-0` if it had processed nothing.
        after: MessageId,
        /// How many; `None` if that is not known, nor whether it is any: the projection was
        /// [retired](crate::EventProjection::retire), or its checkpoint was set by somebody else.
        entries: Option<u64>,
    },
    /// The stream is another one: it was deleted and made anew, or has lost what came last.
    /// [`rebuild`](crate::EventProjection::rebuild) begins from zero,
    /// [`set_checkpoint_after`](crate::EventProjection::set_checkpoint_after) keeps the numbers.
    #[error("projection `{projection}`: `{stream}` is not the stream of which it has processed {checkpoint}")]
    Replaced {
        /// The projection.
        projection: String,
        /// The key of the stream.
        stream: String,
        /// The checkpoint.
        checkpoint: MessageId,
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

    /// Returns `true` if one entry stopped the projection: it cannot be read, its handler failed, or the server refuses what
    /// the handler writes. The projection goes on once the entry, or the key, is mended or deleted.
    #[must_use]
    pub const fn is_entry_error(&self) -> bool {
        matches!(self, Self::Entry { .. } | Self::Handler { .. } | Self::Effect { .. })
    }
}

fn entries_text(count: &Option<u64>) -> String {
    count.map_or_else(|| "perhaps entries".to_owned(), |count| format!("{count} entries"))
}
