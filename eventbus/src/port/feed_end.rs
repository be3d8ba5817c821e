//! The end of a feed: its head, and whether the head may rise by itself.

use crate::domain::stream::Position;

/// The end of a feed, as one statement saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedEnd {
    /// The position of the last event that is safe to read, see [`ReadFeed::head`](super::ReadFeed::head).
    pub head: Position,
    /// `true` if an append may be open: begun, and neither committed nor rolled back. When it ends, readers may see
    /// later events that were stored before, and a roll-back is not [signalled](super::ReadFeed::appended).
    pub has_open_appends: bool,
}
