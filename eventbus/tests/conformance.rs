//! The reference implementations pass the suites that every backend passes.

use eventbus::InMemoryEventStore;

eventbus::event_store_conformance!(memory_store, async { InMemoryEventStore::new() });
eventbus::event_store_reopen_conformance!(
    memory_store_handles,
    async { InMemoryEventStore::new() },
    async |store: InMemoryEventStore| store
);
