use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event]
struct Closed {}

#[handler]
async fn on_opened(_event: &Opened) {}

fn main() {}
