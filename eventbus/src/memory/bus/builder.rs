//! Builder of the in-process bus.

use std::time::Duration;

use super::{InMemoryEventBus, settings::BusSettings};
use crate::{domain::clock::SharedClock, port::retry::RetryPolicy};

/// Builder of an [`InMemoryEventBus`].
///
/// # Examples
/// ```
/// use eventbus::{InMemoryEventBus, handler::RetryPolicy};
/// use std::time::Duration;
/// let at_once = RetryPolicy { first_delay: Duration::from_millis(1), ..Default::default() };
/// let bus = InMemoryEventBus::builder().retry(at_once).concurrency(4).build();
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct InMemoryEventBusBuilder(BusSettings);

impl InMemoryEventBusBuilder {
    pub(super) fn new() -> Self {
        Self(BusSettings::default())
    }

    /// Sets about how many events the bus holds, at least one; 8,192 by default.
    ///
    /// The bus holds the newest events for groups that come later. While a group lags by the capacity, publishing waits
    /// if the bus consumes, and is refused if it does not; an accepted call publishes all its events, also beyond the
    /// capacity. Dead letters do not hold up publishers, and take the place of old events.
    pub const fn capacity(mut self, events: usize) -> Self {
        self.0.capacity = events;
        self
    }

    /// Sets about how many bytes of events the bus holds, in the same way as [`capacity`](Self::capacity); 64 MiB by
    /// default. One event may be larger. The bytes are estimated: payload, attributes and aggregate id, and 500 for
    /// each event.
    pub const fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.0.capacity_bytes = bytes;
        self
    }

    /// Sets how often and when the bus retries a failed delivery if the handler has no `retries` of its own; for four
    /// hours by default.
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.0.retry = policy;
        self
    }

    /// Sets how many deliveries, of different aggregates, a handler without `concurrency` of its own gets at once; one
    /// by default.
    pub const fn concurrency(mut self, deliveries: usize) -> Self {
        self.0.limits.concurrency = deliveries;
        self
    }

    /// Sets how many deliveries a group has in flight at most; 1,000 by default. Deliveries that wait for a retry, or
    /// are blocked behind one that does, do not count.
    pub const fn max_in_flight(mut self, deliveries: usize) -> Self {
        self.0.max_in_flight = deliveries;
        self
    }

    /// Sets how many deliveries of a group may wait for a retry, or be blocked behind one that does; 100,000 by
    /// default. At this limit the group reads no more entries until a tenth of them is gone, and health has an alert.
    pub const fn max_waiting(mut self, deliveries: usize) -> Self {
        self.0.max_waiting = deliveries;
        self
    }

    /// Sets how long a handler may run before the bus logs it as slow; a second by default.
    pub const fn slow_after(mut self, time: Duration) -> Self {
        self.0.limits.slow = time;
        self
    }

    /// Sets the clock for retries, timeouts and the times of dead letters; the machine's by default.
    pub fn clock(mut self, clock: impl Into<SharedClock>) -> Self {
        self.0.clock = clock.into();
        self
    }

    /// Builds the bus.
    #[must_use]
    pub fn build(self) -> InMemoryEventBus {
        InMemoryEventBus::with_settings(self.0)
    }
}
