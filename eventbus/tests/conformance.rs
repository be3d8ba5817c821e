//! The reference implementations pass the suites that every backend passes.

use eventbus::InMemoryEventStore;

eventbus::event_store_conformance!(memory_store, async { InMemoryEventStore::new() });
eventbus::event_store_reopen_conformance!(
    memory_store_handles,
    async { InMemoryEventStore::new() },
    async |store: InMemoryEventStore| store
);
eventbus::event_store_conformance!(table_store, async { eventbus::testkit::TableStore::new() });
eventbus::event_store_transactions_conformance!(transactions_of_table_store, async {
    eventbus::testkit::TableStore::new()
});
