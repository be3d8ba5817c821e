//! Putting an in-process bus together.

use std::time::Duration;

use super::InMemoryEventBus;
use crate::{
    domain::clock::SharedClock,
    port::{DEFAULT_MAX_WAITING, DELIVER_SKIPPED_WITHIN, Limits, RetryPolicy},
};

/// How many events an in-process bus holds unless it is told otherwise.
const DEFAULT_CAPACITY: usize = 8_192;
/// How many deliveries a group has in hand unless it is told otherwise.
const DEFAULT_MAX_IN_FLIGHT: usize = 1_000;

/// How an in-process bus works.
#[derive(Debug, Clone)]
pub(super) struct BusSettings {
    pub(super) clock: SharedClock,
    pub(super) capacity: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_waiting: usize,
    pub(super) retry: RetryPolicy,
    pub(super) limits: Limits,
    pub(super) deliver_skipped_within: Duration,
}

/// Puts an [`InMemoryEventBus`] together.
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, port::RetryPolicy};
/// use std::time::Duration;
/// let at_once = RetryPolicy { first_delay: Duration::from_millis(1), ..Default::default() };
/// let bus = InMemoryEventBus::builder().retry(at_once).concurrency(4).build();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct InMemoryEventBusBuilder(BusSettings);

impl InMemoryEventBusBuilder {
    pub(super) fn new() -> Self {
        Self(BusSettings {
            clock: SharedClock::SYSTEM,
            capacity: DEFAULT_CAPACITY,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            max_waiting: DEFAULT_MAX_WAITING,
            retry: RetryPolicy::default(),
            limits: Limits::default(),
            deliver_skipped_within: DELIVER_SKIPPED_WITHIN,
        })
    }

    /// About how many events it holds, at least one; 8,192 if left out.
    ///
    /// The newest ones are held for groups that come later. While a group lags so far behind, publishing waits if the
    /// bus consumes, and is refused if it does not; a call that is let in is published whole. Dead letters are held
    /// beside that.
    pub const fn capacity(mut self, events: usize) -> Self {
        self.0.capacity = events;
        self
    }

    /// How often and when a failed delivery is tried again, where the handler has no `retries` of its own; for four
    /// hours if left out.
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.0.retry = policy;
        self
    }

    /// How many deliveries a handler without `concurrency` of its own gets at once, of different aggregates; one if left
    /// out.
    pub const fn concurrency(mut self, deliveries: usize) -> Self {
        self.0.limits.concurrency = deliveries;
        self
    }

    /// How many deliveries a group has in flight at most; 1,000 if left out. Those that wait for a retry, or are parked
    /// behind one that does, do not count.
    pub const fn max_in_flight(mut self, deliveries: usize) -> Self {
        self.0.max_in_flight = deliveries;
        self
    }

    /// How many deliveries of a group may wait for a retry, or be parked behind one that does: then it takes no more until a
    /// tenth of them is gone, and health has an alert. 100,000 if left out.
    pub const fn max_waiting(mut self, deliveries: usize) -> Self {
        self.0.max_waiting = deliveries;
        self
    }

    /// A handler that takes this long is logged; a second if left out.
    pub const fn slow_after(mut self, time: Duration) -> Self {
        self.0.limits.slow = time;
        self
    }

    /// How long ago a group may have begun to skip an event type for which it gets its first handler, so that it is
    /// delivered what it skipped; 24 h if left out. What is older is delivered if the handler says `start =
    /// "oldest"`, and not if it says `start = "now"`.
    pub const fn deliver_skipped_within(mut self, time: Duration) -> Self {
        self.0.deliver_skipped_within = time;
        self
    }

    /// By which clock retries, timeouts and the times of dead letters go; the machine's if left out.
    pub fn clock(mut self, clock: impl Into<SharedClock>) -> Self {
        self.0.clock = clock.into();
        self
    }

    /// Makes the bus.
    #[must_use]
    pub fn build(self) -> InMemoryEventBus {
        InMemoryEventBus::with_settings(self.0)
    }
}
