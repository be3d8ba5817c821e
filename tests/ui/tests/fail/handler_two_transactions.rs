use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct Connection;

#[handler]
async fn on_opened(_event: &Opened, _a: &mut Connection, _b: &mut Connection) {}

fn main() {}
