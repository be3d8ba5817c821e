use eventbus::{InMemoryEventBus, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
async fn on_opened(_event: &Opened, _meta: &Metadata) {}

fn main() {
    let bus = InMemoryEventBus::new();
    bus.subscribe::<Opened>(on_opened);
}
