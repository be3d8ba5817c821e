use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, DomainEvent)]
#[event(aggregate_type = "Account", type = "audited", version = 2)]
enum Audited {
    Opened(Opened),
}

#[handler]
async fn audit(_event: &Audited) {}

fn main() {}
