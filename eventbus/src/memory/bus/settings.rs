//! Settings and names of the in-process bus.

use crate::{
    delivery::{DEFAULT_MAX_WAITING, Limits},
    domain::{clock::SharedClock, name::Name},
    port::retry::RetryPolicy,
};

/// Default capacity of an in-process bus, in events.
const DEFAULT_CAPACITY: usize = 8_192;
/// Default capacity of an in-process bus, in bytes of its events: 64 MiB.
const DEFAULT_CAPACITY_BYTES: usize = 64 * 1024 * 1024;
/// Default limit of deliveries of a group in flight.
const DEFAULT_MAX_IN_FLIGHT: usize = 1_000;
pub(super) static DESTINATION: Name = Name::from_static("memory");
pub(super) static DEFAULT_GROUP: Name = Name::from_static("default");

/// Settings of an in-process bus.
#[derive(Debug, Clone)]
pub(super) struct BusSettings {
    pub(super) clock: SharedClock,
    pub(super) capacity: usize,
    pub(super) capacity_bytes: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_waiting: usize,
    pub(super) retry: RetryPolicy,
    pub(super) limits: Limits,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            clock: SharedClock::SYSTEM,
            capacity: DEFAULT_CAPACITY,
            capacity_bytes: DEFAULT_CAPACITY_BYTES,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            max_waiting: DEFAULT_MAX_WAITING,
            retry: RetryPolicy::default(),
            limits: Limits::default(),
        }
    }
}
