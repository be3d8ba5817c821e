//! The counters of a bus, and the description of its stream.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use super::health::{OldestUnfinished, RunningHandler, SilentConsumer};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),+ $(,)?) => {
        /// The counters of a bus since its creation.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct BusStats {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl BusStats {
            /// The counters by name: first those that the tutorial of eventsource-py shows, in its order, then ours.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }

            /// Adds what the counters have grown by from `before` to `now`.
            pub(crate) fn add_growth(&mut self, before: &Self, now: &Self) {
                $(self.$field += now.$field.saturating_sub(before.$field);)+
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
    /// Events delivered to the handlers of this bus, retries included.
    events_consumed,
    /// Deliveries whose handlers all succeeded.
    events_processed_success,
    /// Deliveries with a failed handler.
    events_processed_failed,
    /// Deliveries reclaimed from consumers that died.
    messages_recovered,
    /// Deliveries that used up their attempts.
    messages_sent_to_dlq,
    /// Errors of single handlers.
    handler_errors,
    /// Reconnections after a lost connection.
    reconnections,
    /// Events that no handler of the group wants.
    events_skipped,
    /// Deliveries that used up their attempts and stay pending, as dead letters are disabled.
    messages_exhausted,
    /// Deliveries whose entries were deleted before they were handled.
    messages_deleted,
}

/// A description of a bus's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Set if the bus answered; if not, all other fields but `stats` are empty.
    pub connected: bool,
    /// The stream itself.
    pub stream: StreamSummary,
    /// The consumer groups, sorted by name. On Redis, the default group of a bus is left out until a consumer joins it,
    /// unless it is the only group.
    pub consumer_groups: Vec<GroupInfo>,
    /// Pending entries, delivered and not acknowledged, over all groups.
    pub pending_messages: u64,
    /// Dead letters.
    pub dlq_messages: u64,
    /// Set if the store that holds dead letters did not answer: `dlq_messages` lacks those.
    #[serde(rename = "dlq_unknown", skip_serializing_if = "std::ops::Not::not")]
    pub is_dlq_unknown: bool,
    /// Consumers that send heartbeats, over all groups.
    pub active_consumers: u64,
    /// The counters of this bus.
    pub stats: BusStats,
}

/// A bus's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Its name.
    pub name: String,
    /// Its number of entries; a file queue counts gaps between its ids, too.
    pub length: u64,
    /// The id of the oldest entry.
    pub first_entry_id: Option<String>,
    /// The id of the newest entry.
    pub last_entry_id: Option<String>,
}

/// A consumer group of a bus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// The number of consumers that the bus knows by name; on Redis also those that are gone.
    pub consumers: u64,
    /// The number of pending entries: delivered and not acknowledged.
    pub pending: u64,
    /// The consumers that send heartbeats.
    pub active_consumers: u64,
    /// The id of the newest delivered entry, if the bus knows it.
    pub last_delivered_id: Option<String>,
    /// Entries not delivered yet, if the bus knows. A file queue counts gaps between its ids, too.
    pub lag: Option<u64>,
    /// The time since the oldest of them was published, in milliseconds, if the bus knows; 0 if there is none.
    pub oldest_unread_age_ms: Option<u64>,
    /// The id of the oldest pending entry, if the bus knows it.
    pub oldest_pending_id: Option<String>,
    /// The time since that entry was published, in milliseconds.
    pub oldest_pending_age_ms: Option<u64>,
    /// Long runs of consumers of other processes, if the bus knows.
    pub in_flight: Vec<RunningHandler>,
    /// The consumer with the oldest entry of those that send no heartbeat, if the bus knows.
    pub silent: Option<SilentConsumer>,
    /// The delivery that has been unfinished for longest since a handler failed, or that no live consumer has in
    /// flight, if the bus knows of other processes; a process reports its own in its [health](super::health::Health).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unfinished: Option<OldestUnfinished>,
}

impl GroupInfo {
    /// Describes a group whose consumers all send heartbeats; the rest is unknown.
    pub fn new(name: impl Into<String>, consumers: u64, pending: u64) -> Self {
        Self { name: name.into(), consumers, pending, active_consumers: consumers, ..Self::default() }
    }
}

/// The entries that the consumers of a group have in flight in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InFlightCounts {
    /// Entries that are read and not acknowledged yet: ready, running, waiting for a retry, or blocked.
    pub entries: u64,
    /// Entries that wait for a retry.
    pub waiting: u64,
    /// Aggregates whose later events wait for an earlier one.
    pub blocked_streams: u64,
}

impl InFlightCounts {
    /// Creates the counts of one consumer.
    #[must_use]
    pub const fn new(entries: u64, waiting: u64, blocked_streams: u64) -> Self {
        Self { entries, waiting, blocked_streams }
    }
}

impl AddAssign for InFlightCounts {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.waiting += other.waiting;
        self.blocked_streams += other.blocked_streams;
    }
}
