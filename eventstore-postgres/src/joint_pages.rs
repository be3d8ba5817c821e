//! Whether a store reads pages of the feed together with its end.

use std::sync::atomic::{AtomicBool, Ordering};

use eventbus::port::feed_page::FeedPage;

/// Whether a store reads pages with the end of the feed in one round trip.
#[derive(Debug, Default)]
pub(crate) struct JointPages {
    /// Set if the server refused: the isolation is stricter than READ COMMITTED, the schema was renamed, the role lacks the
    /// right, or there is no such function.
    are_refused: AtomicBool,
    /// Set if the last page was full. The function takes a third longer for 1,000 events than two statements, and counts no
    /// bytes before it answers.
    are_full: AtomicBool,
}

impl JointPages {
    /// Returns `true` if the next page is read that way.
    pub(crate) fn are_used(&self) -> bool {
        !self.are_refused.load(Ordering::Relaxed) && !self.are_full.load(Ordering::Relaxed)
    }

    /// Notes that the server refuses.
    pub(crate) fn refuse(&self) {
        self.are_refused.store(true, Ordering::Relaxed);
    }

    /// Notes whether a page is full.
    pub(crate) fn note_page(&self, page: &FeedPage) {
        self.are_full.store(page.through < page.end.head, Ordering::Relaxed);
    }
}
