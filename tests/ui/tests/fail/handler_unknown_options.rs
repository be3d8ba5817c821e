use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler(retry = 3, grup = "mail", manual, priority = 1)]
async fn on_opened(_event: &Opened) {}

fn main() {}
