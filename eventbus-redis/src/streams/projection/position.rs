//! Positions in a stream, and the detection of entries that are gone before they were processed.
//!
//! Invariant: a position holds how many of all entries ever added to the stream are not after it; the rest must exist.

use std::{fmt, str::FromStr};

use crate::{entry_id::EntryId, reply::Entry, streams::StreamEntry};

/// A position in a stream, as the note beside the stream holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamPosition {
    pub(super) id: EntryId,
    /// Number of entries ever added to the stream that are not after this position; in the text, `-` stands for an
    /// unknown number.
    pub(super) entries_before: Option<u64>,
}

impl StreamPosition {
    /// Returns the position `count` entries later, after `last`.
    pub(super) fn behind(self, count: usize, last: &StreamEntry) -> Self {
        Self {
            id: parse_id(last.id.as_str()),
            entries_before: self.entries_before.map(|before| before.saturating_add(count as u64)),
        }
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entries_before {
            Some(before) => write!(f, "{} {before}", self.id),
            None => write!(f, "{} -", self.id),
        }
    }
}

impl FromStr for StreamPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let id = words.next().unwrap_or_default().parse().map_err(drop)?;
        Ok(Self { id, entries_before: words.next().and_then(|word| word.parse().ok()) })
    }
}

/// The next entries of a projection.
pub(super) struct ProjectionBatch {
    /// The checkpoint, as Redis holds it.
    pub(super) checkpoint: String,
    /// The entries after the position.
    pub(super) entries: Vec<StreamEntry>,
    /// The position in the note, if it fits the checkpoint.
    pub(super) noted: Option<StreamPosition>,
    /// The position with its number as of this batch: entries that are gone count as before it.
    pub(super) position: StreamPosition,
    /// Set if entries are gone; their number, or `None` if it is unknown.
    pub(super) missing: Option<Option<u64>>,
}

/// Reply of the script that reads a batch: the checkpoint, the note, the entries, `true` if there are more, the number
/// of entries ever added, the length, and the first and the highest id.
pub(super) type BatchReply = (String, String, Vec<Entry>, bool, u64, u64, String, String);

impl ProjectionBatch {
    /// Parses the entries after `from`, or after the checkpoint if it is empty.
    pub(super) fn parse(reply: BatchReply, from: &str) -> Self {
        let (checkpoint, note, entries, has_more, added, length, first, newest) = reply;
        let at = parse_id(if from.is_empty() { &checkpoint } else { from });
        let noted = note.parse::<StreamPosition>().ok().filter(|noted| noted.id == at && from.is_empty());
        let read = entries.len() as u64;
        let starts_after = length == 0 || parse_id(&first) > at;
        let after = if starts_after { Some(length) } else { Some(read).filter(|_| !has_more) };
        let before = noted.and_then(|noted| noted.entries_before);
        let missing = match before.map(|before| added.checked_sub(before.saturating_add(after.unwrap_or(read)))) {
            // the stream was made anew, or the server has lost its last entries
            _ if parse_id(&newest) < at => Some(None),
            Some(None) => Some(None),
            Some(Some(missing)) => Some(Some(missing)).filter(|_| missing > 0 && starts_after),
            None => Some(None).filter(|_| starts_after && at != EntryId::ZERO && parse_id(&newest) > at),
        };
        let entries_before = after.and_then(|after| added.checked_sub(after)).or(before);
        let position = StreamPosition { id: at, entries_before };
        let entries = entries.into_iter().map(StreamEntry::from).collect();
        Self { checkpoint, entries, noted, position, missing }
    }

    /// Returns the position after the first `count` entries.
    pub(super) fn position_after(&self, count: usize) -> StreamPosition {
        match count.checked_sub(1).and_then(|last| self.entries.get(last)) {
            None => self.position,
            Some(last) => self.position.behind(count, last),
        }
    }
}

fn parse_id(text: &str) -> EntryId {
    EntryId::parse_id_or_time(text).unwrap_or(EntryId::ZERO)
}
