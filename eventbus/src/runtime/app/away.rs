//! Since when store and bus are away.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

/// What can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Store,
    Bus,
}

/// Since when they are, as far as was noticed.
#[derive(Debug, Default)]
pub(super) struct Away(Mutex<[Option<OffsetDateTime>; 2]>);

impl Away {
    /// Notes that a part is there, or away since then at the latest. Returns since when it is away.
    pub(super) fn note(&self, part: Part, since: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = &mut away[part as usize];
        *noted = since.map(|since| noted.map_or(since, |noted| noted.min(since)));
        *noted
    }
}
