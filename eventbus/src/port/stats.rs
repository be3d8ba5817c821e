//! What a bus counts and shows.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::{OldestUnfinished, Outcome, RunningHandler, SilentConsumer, UnreadableEvents};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),+ $(,)?) => {
        /// What a bus counted since it was made.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct BusStats {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl BusStats {
            /// The counters by name: first the tutorial's, in its order, then ours.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }
        }

        /// The counters behind [`BusStats`], for buses.
        #[derive(Debug, Default)]
        pub struct BusCounters {
            $($field: AtomicU64,)+
        }

        impl BusCounters {
            $($(#[$doc])* pub fn $field(&self, more: u64) {
                self.$field.fetch_add(more, Ordering::Relaxed);
            })+

            /// The counters as they are now.
            #[must_use]
            pub fn snapshot(&self) -> BusStats {
                BusStats { $($field: self.$field.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Events published by this bus.
    events_published,
    /// Events this bus took over for its handlers, repeats included.
    events_consumed,
    /// Deliveries all of whose handlers succeeded.
    events_processed_success,
    /// Deliveries with a failed handler.
    events_processed_failed,
    /// Deliveries taken over from consumers that died.
    messages_recovered,
    /// Deliveries that used up their attempts.
    messages_sent_to_dlq,
    /// Errors of single handlers.
    handler_errors,
    /// Connections made anew after a loss.
    reconnections,
    /// Events that no handler of the group wants.
    events_skipped,
    /// Deliveries that used up their attempts and stay pending, as there are to be no dead letters.
    messages_exhausted,
    /// Deliveries whose entries were deleted before they were handled.
    messages_deleted,
}

impl BusCounters {
    /// Counts what came of a delivery. What no handler here wants is left to the bus: another consumer may want it.
    pub fn count(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Handled { .. } => self.events_processed_success(1),
            Outcome::Failed { failures, .. } => {
                self.events_processed_failed(1);
                self.handler_errors(failures.len() as u64);
            }
            Outcome::Skipped | Outcome::Unattended => {}
        }
    }
}

/// What there is to know about a bus's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Whether the bus could be asked; everything else is empty when not.
    pub connected: bool,
    /// The stream itself.
    pub stream: StreamSummary,
    /// The consumer groups, sorted by name.
    pub consumer_groups: Vec<GroupInfo>,
    /// Entries handed over and not acknowledged, over all groups.
    pub pending_messages: u64,
    /// Entries in the dead letters.
    pub dlq_messages: u64,
    /// Consumers that show life, over all groups.
    pub active_consumers: u64,
    /// What this bus counted.
    pub stats: BusStats,
}

/// A bus's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Its name.
    pub name: String,
    /// Its number of entries.
    pub length: u64,
    /// The id of the oldest entry.
    pub first_entry_id: Option<String>,
    /// The id of the newest entry.
    pub last_entry_id: Option<String>,
}

/// A consumer group of a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// The consumers it knows, by name; on Redis also those that are gone.
    pub consumers: u64,
    /// Entries handed over and not acknowledged.
    pub pending: u64,
    /// The consumers that show life.
    pub active_consumers: u64,
    /// The id of the newest entry handed over, where the bus knows.
    pub last_delivered_id: Option<String>,
    /// Entries not handed over yet, where the bus knows.
    pub lag: Option<u64>,
    /// The id of the oldest entry handed over and not acknowledged, where the bus knows.
    pub oldest_pending_id: Option<String>,
    /// How long ago that entry was published, in milliseconds.
    pub oldest_pending_age_ms: Option<u64>,
    /// What consumers of other processes have been busy with for long, where the bus knows.
    pub in_flight: Vec<RunningHandler>,
    /// The consumer with the oldest entry of those that show no life, where the bus knows.
    pub silent: Option<SilentConsumer>,
    /// The delivery that has been unfinished for longest since a handler failed, or that no live consumer has in hand,
    /// where the bus knows of other processes; what a process knows of itself is in its [health](super::Health).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unfinished: Option<OldestUnfinished>,
    /// The events that the group is not delivered as their store cannot read them, where the bus reads them from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<UnreadableEvents>,
}

impl GroupInfo {
    /// Describes a group all of whose consumers show life, and of which no more is known.
    pub fn new(name: impl Into<String>, consumers: u64, pending: u64) -> Self {
        Self {
            name: name.into(),
            consumers,
            pending,
            active_consumers: consumers,
            last_delivered_id: None,
            lag: None,
            oldest_pending_id: None,
            oldest_pending_age_ms: None,
            in_flight: Vec::new(),
            silent: None,
            oldest_unfinished: None,
            unreadable: None,
        }
    }
}
