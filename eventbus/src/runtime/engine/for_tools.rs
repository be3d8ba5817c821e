//! What tools need of the handlers of a store while no app runs them.

use std::{ptr, sync::Arc, time::Duration};

use super::{dead_letters::DESTINATION, store_bus::StoreBus};
use crate::{
    domain::clock::SharedClock,
    port::{EventBus, EventStore},
    runtime::feed_head::FeedHead,
};

/// Returns a bus without handlers whose dead letters are those of the store's handlers.
pub fn bus_of_store(store: Arc<dyn EventStore>) -> Arc<dyn EventBus> {
    let bus = StoreBus::new();
    bus.bind(FeedHead::new(store, SharedClock::SYSTEM), Duration::ZERO, DESTINATION.clone());
    Arc::new(bus)
}

/// Returns `true` if the handlers of a bus read the store of their app.
pub fn reads_store(bus: &dyn EventBus) -> bool {
    ptr::eq(bus.destination(), &raw const DESTINATION)
}
