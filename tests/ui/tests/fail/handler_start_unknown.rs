use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Order")]
struct OrderCreated {}

#[handler(start = "yesterday")]
async fn greet(_event: &OrderCreated) {}

#[handler(start = 5)]
async fn count(_event: &OrderCreated) {}

fn main() {}
