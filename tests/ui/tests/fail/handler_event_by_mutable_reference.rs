use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct Connection;

#[handler]
async fn on_opened(_event: &mut Opened) {}

#[handler]
async fn wrong_order(_connection: &mut Connection, _event: &Opened) {}

fn main() {}
