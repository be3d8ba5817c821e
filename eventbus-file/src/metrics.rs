//! The counters of a queue.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),+ $(,)?) => {
        /// Counters of a queue, from 0 when it is opened.
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
    /// Ids that a different worker linked first.
    id_collisions,
    /// Ids without an event that this worker filled by a gap, so that readers continue.
    gaps_filled,
    /// Payloads written compressed.
    payloads_compressed,
    /// Claims acquired.
    claims_created,
    /// Claims refused, because a worker owned them.
    claims_refused,
    /// Claims renewed.
    claims_renewed,
    /// Claims of this worker that expired or passed to a different worker.
    claims_lost,
    /// Claims that this worker acquired after they had expired at their owner.
    claims_taken_over,
    /// Results written.
    results_written,
    /// Results refused, because the claim was lost or the event had a result.
    results_refused,
    /// Messages sent to the other workers.
    broadcasts_sent,
    /// Messages received from them.
    broadcasts_received,
    /// Commands to Redis that failed; the files decided alone.
    redis_failures,
    /// Connections to Redis after a loss.
    redis_reconnections,
    /// Times that this worker broadcast the whole state.
    resyncs,
    /// Files that a different worker reported in a resync and that this one did not find: the two do not share a
    /// folder, or new files appear late.
    files_unseen,
}

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
