//! One entry of the log.

use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::MessageId,
};

/// One published event.
#[derive(Debug)]
pub(super) struct LogEntry {
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    /// The position in the feed that checkpoints refer to; `None` if it came from elsewhere.
    pub(super) position: Option<Position>,
    /// Its estimated memory, in bytes.
    pub(super) bytes: usize,
    /// The bytes of all entries that were published before it, also of those that were dropped.
    pub(super) bytes_before: u64,
    /// Set if the bus read it back for a group that had not finished it: no other group gets it.
    pub(super) is_restored: bool,
}
