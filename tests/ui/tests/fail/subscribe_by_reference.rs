use eventbus::InMemoryEventBus;
use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

fn main() {
    let bus = InMemoryEventBus::new();
    bus.subscribe(async |event: &Opened| println!("{event:?}"));
}
