//! The id of an entry: the server's time in milliseconds, and a number within it.

use std::str::FromStr;

#[derive(Debug, derive_more::Display, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[display("{ms}-{number}")]
pub struct EntryId {
    pub ms: u64,
    pub number: u64,
}

/// A text that is not the id of an entry.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidEntryId;

impl EntryId {
    pub const ZERO: Self = Self { ms: 0, number: 0 };

    /// Parses an id, or a time alone, which stands for its first id.
    pub fn parse_id_or_time(text: &str) -> Option<Self> {
        text.parse().or_else(|_| format!("{text}-0").parse()).ok()
    }

    /// Returns the highest id below this one.
    pub const fn previous(self) -> Self {
        match self {
            Self { ms: 0, number: 0 } => Self::ZERO,
            Self { ms, number: 0 } => Self { ms: ms - 1, number: u64::MAX },
            Self { ms, number } => Self { ms, number: number - 1 },
        }
    }
}

impl FromStr for EntryId {
    type Err = InvalidEntryId;

    /// Parses the form that the server writes: `1795157844243-0`.
    fn from_str(text: &str) -> Result<Self, InvalidEntryId> {
        let number = |digits: &str| match digits.bytes().all(|c| c.is_ascii_digit()) {
            true => digits.parse().map_err(|_| InvalidEntryId),
            false => Err(InvalidEntryId),
        };
        let (ms, rest) = text.split_once('-').ok_or(InvalidEntryId)?;
        Ok(Self { ms: number(ms)?, number: number(rest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryId, InvalidEntryId};

    #[test]
    fn what_the_server_writes_is_read_and_nothing_else() {
        let id: EntryId = "1795157844243-18446744073709551615".parse().unwrap();
        assert_eq!(id, EntryId { ms: 1_795_157_844_243, number: u64::MAX });
        assert_eq!(id.to_string(), "1795157844243-18446744073709551615");
        for text in ["", "-", "+", "1", "1-", "-1", "1-2-3", "+1-0", "1-18446744073709551616", "1-0 ", "$", "1-*"] {
            assert_eq!(text.parse::<EntryId>(), Err(InvalidEntryId), "{text}");
        }
    }

    #[test]
    fn a_place_may_be_a_time_alone() {
        assert_eq!(EntryId::parse_id_or_time("17"), "17-0".parse().ok());
        assert_eq!(EntryId::parse_id_or_time("17-3"), "17-3".parse().ok());
        for text in ["", "-", "$", "+17", "18446744073709551616"] {
            assert_eq!(EntryId::parse_id_or_time(text), None, "{text}");
        }
    }

    #[test]
    fn the_id_before_is_the_next_lower_one() {
        for (id, before) in [("1-1", "1-0"), ("1-0", "0-18446744073709551615"), ("0-1", "0-0"), ("0-0", "0-0")] {
            assert_eq!(id.parse::<EntryId>().unwrap().previous().to_string(), before);
        }
    }
}
