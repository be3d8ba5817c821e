//! Positions in a stream, and the detection of entries that are gone before they were processed.
//!
//! Invariant: a position holds how many of all entries ever added to the stream are not after it; the rest must exist.

use std::{fmt, str::FromStr};

use xxhash_rust::xxh3::xxh3_64;

use crate::{entry_id::EntryId, streams::StreamEntry};

/// A position in a stream, as the note holds it. In the text, `-` stands for an unknown number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamPosition {
    pub(super) id: EntryId,
    /// Number of entries ever added to the stream that are not after this position.
    entries_before: Option<u64>,
    /// Hash of the entry at this position.
    entry_hash: Option<u64>,
}

impl StreamPosition {
    pub(super) fn at(id: EntryId) -> Self {
        Self { id, ..Self::default() }
    }

    /// Returns the position `count` entries later, after `last`.
    pub(super) fn behind(self, count: usize, last: &StreamEntry) -> Self {
        Self {
            id: last.id.as_str().parse().unwrap_or(EntryId::ZERO),
            entries_before: self.entries_before.map(|behind| behind.saturating_add(count as u64)),
            entry_hash: Some(hash_entry(last)),
        }
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        write!(f, "{} {} {}", self.id, text(self.entries_before), text(self.entry_hash))
    }
}

impl FromStr for StreamPosition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let at = words.next().unwrap_or_default().parse().map_err(drop)?;
        let mut number = || words.next().and_then(|word| word.parse().ok());
        Ok(Self { id: at, entries_before: number(), entry_hash: number() })
    }
}

/// Entries that are gone before they were processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    None,
    /// This many were deleted by name, as `XDEL` does.
    Deleted(u64),
    /// This many were trimmed; `None` if unknown, perhaps none.
    Trimmed(Option<u64>),
    /// The stream is a different one.
    Replaced,
}

/// State of a stream, seen from a position in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamSnapshot {
    /// Number of entries ever added, if the server counts them.
    pub(super) added: Option<u64>,
    pub(super) length: u64,
    pub(super) first: EntryId,
    pub(super) newest: EntryId,
    pub(super) highest_deleted: EntryId,
    /// Number of entries after the position; `None` if they are more than a batch.
    pub(super) entries_after: Option<u64>,
    /// Number of them that the batch has read.
    pub(super) entries_read: u64,
    /// Hash of the entry at the position, if it exists.
    pub(super) entry_hash: Option<u64>,
}

impl StreamSnapshot {
    /// Returns `true` if all existing entries are after a position.
    pub(super) fn starts_after(&self, at: EntryId) -> bool {
        self.length == 0 || self.first > at
    }

    pub(super) fn detect_loss(&self, position: StreamPosition) -> Loss {
        let Some(added) = self.added else {
            return Loss::None;
        };
        let is_other = self.entry_hash.is_some_and(|found| position.entry_hash.is_some_and(|seen| seen != found));
        if is_other || self.newest < position.id {
            return Loss::Replaced;
        }
        let Some(behind) = position.entries_before else {
            let may_miss = self.starts_after(position.id) && position.id != EntryId::ZERO && self.newest > position.id;
            return if may_miss { Loss::Trimmed(None) } else { Loss::None };
        };
        let Some(missing) = added.checked_sub(behind.saturating_add(self.entries_after.unwrap_or(self.entries_read)))
        else {
            return Loss::Replaced;
        };
        match (self.entries_after.map(|_| missing), self.starts_after(position.id)) {
            (None | Some(0), _) => Loss::None,
            // only `XDEL` leaves a gap after existing entries, perhaps of an id that steps have passed since
            (Some(missing), false) if self.highest_deleted > EntryId::ZERO => Loss::Deleted(missing),
            (Some(_), false) => Loss::Replaced,
            (Some(1), true) if self.highest_deleted > position.id => Loss::Deleted(1),
            (Some(missing), true) => Loss::Trimmed(Some(missing)),
        }
    }

    /// Returns a position with the numbers of this snapshot: entries that are gone count as before it.
    pub(super) fn position_at(&self, at: EntryId, noted: Option<StreamPosition>) -> StreamPosition {
        let counted = self.entries_after.and_then(|after| self.added?.checked_sub(after));
        let noted = noted.unwrap_or_default();
        StreamPosition {
            id: at,
            entries_before: counted.or(noted.entries_before),
            entry_hash: self.entry_hash.or(noted.entry_hash),
        }
    }
}

pub(super) fn hash_entry(entry: &StreamEntry) -> u64 {
    let mut all = Vec::new();
    for (name, value) in entry.fields() {
        for part in [name.as_bytes(), value] {
            all.extend_from_slice(&part.len().to_le_bytes());
            all.extend_from_slice(part);
        }
    }
    xxh3_64(&all)
}
