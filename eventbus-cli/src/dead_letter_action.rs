//! The actions of operators on dead letters.

use eventbus::{bus::MessageId, dead_letter::DeadLetters};

use crate::error::CommandError;

/// An action on dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterAction {
    Replay,
    Discard,
}

impl DeadLetterAction {
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    pub(crate) const fn doing(self) -> &'static str {
        match self {
            Self::Replay => "replaying",
            Self::Discard => "discarding",
        }
    }

    pub(crate) const fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }

    /// Replays or discards a dead letter. Returns `false` if it is gone.
    pub(crate) async fn end(self, dead_letters: &dyn DeadLetters, id: &MessageId) -> Result<bool, CommandError> {
        Ok(match self {
            Self::Replay => dead_letters.replay(id).await?,
            Self::Discard => dead_letters.discard(id).await?,
        })
    }
}
