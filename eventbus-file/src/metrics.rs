//! What a queue counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),+ $(,)?) => {
        /// What a queue counted since it was opened.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct FileQueueMetrics {
            $($(#[$doc])* pub $field: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $field: Count,)+
        }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> FileQueueMetrics {
                FileQueueMetrics { $($field: self.$field.0.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Events published.
    events_published,
    /// Ids that another worker was faster to take.
    id_collisions,
    /// Ids that nobody published under, filled so that readers go on.
    gaps_filled,
    /// Payloads written compressed.
    payloads_compressed,
    /// Claims taken.
    claims_created,
    /// Claims that another worker had.
    claims_refused,
    /// Claims renewed.
    claims_renewed,
    /// Claims of ours that ran out or were taken over.
    claims_lost,
    /// Claims of others that had run out and were taken over.
    claims_taken_over,
    /// Results written.
    results_written,
    /// Results refused, as the claim was lost or the event had one.
    results_refused,
    /// Messages sent to the other workers.
    broadcasts_sent,
    /// Messages received from them.
    broadcasts_received,
    /// Calls of Redis that failed; the directory decided alone.
    redis_failures,
    /// Connections to Redis made anew after a loss.
    redis_reconnections,
    /// Times this worker told the others the whole state.
    resyncs,
    /// Files that another worker told of then, and that this one did not find: they do not share their folder, or not at
    /// once.
    files_unseen,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
