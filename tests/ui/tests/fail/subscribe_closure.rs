use eventbus::{InMemoryEventBus, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct Thing {}

fn main() {
    let bus = InMemoryEventBus::new();
    bus.subscribe(|_event: Opened| {});
    bus.subscribe(|_event: Opened| async move { 1 });
    bus.subscribe(|_event: Thing| async move {});
    bus.subscribe::<Opened>(Thing {});
}
