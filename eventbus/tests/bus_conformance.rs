//! The event-bus suite on the in-process bus.

use eventbus::{InMemoryEventBus, event_bus_conformance};

event_bus_conformance!(in_process, async { InMemoryEventBus::new() });
