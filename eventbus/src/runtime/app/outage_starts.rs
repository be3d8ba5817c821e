//! Since when store and bus are away.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

/// What can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependency {
    Store,
    Bus,
}

/// Since when they are, as far as was noticed.
#[derive(Debug, Default)]
pub(super) struct OutageStarts(Mutex<[Option<OffsetDateTime>; 2]>);

impl OutageStarts {
    /// Notes that a part is there, or away since then at the latest. Returns since when it is away.
    pub(super) fn record(&self, dependency: Dependency, since: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
        let mut starts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = &mut starts[dependency as usize];
        *start = since.map(|since| start.map_or(since, |start| start.min(since)));
        *start
    }
}
