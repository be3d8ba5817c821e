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
    /// Returns its verb, and what it is while it is done and once it is done.
    pub(crate) const fn forms(self) -> [&'static str; 3] {
        match self {
            Self::Replay => ["replay", "replaying", "replayed"],
            Self::Discard => ["discard", "discarding", "discarded"],
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
