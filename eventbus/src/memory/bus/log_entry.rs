//! One entry of the log.

use crate::{domain::record::RecordedEvent, port::MessageId};

/// One published event.
#[derive(Debug)]
pub(super) struct LogEntry {
    pub(super) id: MessageId,
    pub(super) record: RecordedEvent,
    /// Its estimated memory, in bytes.
    pub(super) bytes: usize,
    /// The bytes of all entries that were published before it, also of those that were dropped.
    pub(super) bytes_before: u64,
}
