use eventbus::{InMemoryEventStore, prelude::*};

struct Thing {}

fn main() {
    let _ = AggregateRepository::<Thing>::new(InMemoryEventStore::new());
}
