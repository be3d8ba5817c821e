//! Numbers of apps: by them an app knows its own subscribers on a bus that several apps of a process share.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of an app in its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppNumber(u64);

impl AppNumber {
    /// Returns a number that no app of this process has had.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
