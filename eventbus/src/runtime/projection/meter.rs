//! Counters of a projection, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of a projection in this process.
#[derive(Debug, Default)]
pub(crate) struct ProjectionMeter {
    events: AtomicU64,
    rebuild_events: AtomicU64,
    rebuilds_done: AtomicU64,
    rebuilds_failed: AtomicU64,
    rebuilds_running: AtomicU64,
    /// The share of the feed that the last rebuild has passed, as the bits of an `f64`.
    rebuilt_share: AtomicU64,
}

impl ProjectionMeter {
    /// Counts events that the projection has handled.
    pub(super) fn count_events(&self, events: u64) {
        self.events.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn begin_rebuild(&self) {
        self.set_share(0.0);
        self.rebuilds_running.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts events that a rebuild has handled; it has passed `share` of the feed.
    pub(super) fn count_rebuild_events(&self, events: u64, share: f64) {
        self.rebuild_events.fetch_add(events, Ordering::Relaxed);
        self.set_share(share);
    }

    /// Records that a rebuild does not run any more, whatever its result.
    pub(super) fn end_rebuild(&self) {
        self.rebuilds_running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts the result of a rebuild.
    pub(super) fn count_rebuild(&self, is_done: bool) {
        let counter = if is_done { &self.rebuilds_done } else { &self.rebuilds_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn set_share(&self, share: f64) {
        self.rebuilt_share.store(share.to_bits(), Ordering::Relaxed);
    }

    /// Returns the number of events that the projection has handled, without the events of rebuilds beside it.
    pub(crate) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(crate) fn rebuild_events(&self) -> u64 {
        self.rebuild_events.load(Ordering::Relaxed)
    }

    /// Returns the number of rebuilds that are done, or have failed.
    pub(crate) fn rebuilds(&self, is_done: bool) -> u64 {
        let counter = if is_done { &self.rebuilds_done } else { &self.rebuilds_failed };
        counter.load(Ordering::Relaxed)
    }

    /// Returns the share of the feed that the rebuild of this process has passed; 1 if none runs.
    pub(crate) fn rebuilt_share(&self) -> f64 {
        match self.rebuilds_running.load(Ordering::Relaxed) {
            0 => 1.0,
            _ => f64::from_bits(self.rebuilt_share.load(Ordering::Relaxed)),
        }
    }
}
