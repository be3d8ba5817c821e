use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

struct Connection;

#[handler(nmae = "x", retries = 1.5)]
fn all_at_once<T>(_event: &mut Opened, _a: impl Clone, _b: &mut Connection, _c: &mut Connection) {}

fn main() {}
