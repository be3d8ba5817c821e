//! The event-bus suite on the bus within one process.

use eventbus::{InMemoryEventBus, testkit::event_bus::SHORT_DELAYS};

eventbus::event_bus_conformance!(in_process, async { InMemoryEventBus::builder().retry(SHORT_DELAYS).build() });
