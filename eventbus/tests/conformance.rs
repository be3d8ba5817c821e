//! The reference implementations pass the suites that every backend passes.

use eventbus::{
    InMemoryEventStore,
    clock::{Clock as _, SharedClock},
    testkit::{self, ManualClock},
};

eventbus::event_store_conformance!(memory_store, async { InMemoryEventStore::new() });
eventbus::event_store_tags_conformance!(tags_of_memory_store, async { InMemoryEventStore::new() });
eventbus::handler_progress_conformance!(handlers_of_memory_store, async { InMemoryEventStore::new() });
eventbus::event_store_reopen_conformance!(
    memory_store_handles,
    async { InMemoryEventStore::new() },
    async |store: InMemoryEventStore| store
);
eventbus::event_store_conformance!(table_store, async { eventbus::testkit::TableStore::new() });
eventbus::event_store_tags_conformance!(tags_of_table_store, async { eventbus::testkit::TableStore::new() });
eventbus::event_store_transactions_conformance!(transactions_of_table_store, async {
    eventbus::testkit::TableStore::new()
});

/// Makes a store whose clock the second value moves.
fn store_and_clock() -> (InMemoryEventStore, ManualClock) {
    let clock = ManualClock::new();
    (InMemoryEventStore::with_clock(SharedClock::new(clock.clone())), clock)
}

#[tokio::test]
async fn recorded_times_never_decrease() {
    let (store, clock) = store_and_clock();
    let set_back = async |time| clock.set(clock.now() - time);
    testkit::event_store::recorded_times_never_decrease(store, set_back).await;
}
