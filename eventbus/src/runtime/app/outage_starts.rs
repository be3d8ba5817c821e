//! Start times of the outages of store and bus, for `health`.

use parking_lot::Mutex;
use time::OffsetDateTime;

/// A server that can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependency {
    Store,
    Bus,
}

/// Start times of current outages, as this process noticed them. Locked: health checks run concurrently.
#[derive(Debug, Default)]
pub(super) struct OutageStarts(Mutex<[Option<OffsetDateTime>; 2]>);

impl OutageStarts {
    /// Records that a server answers, or is away since `since` at the latest. Returns the start of its outage.
    pub(super) fn record(&self, dependency: Dependency, since: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
        let mut starts = self.0.lock();
        let start = &mut starts[dependency as usize];
        *start = since.map(|since| start.map_or(since, |start| start.min(since)));
        *start
    }
}
