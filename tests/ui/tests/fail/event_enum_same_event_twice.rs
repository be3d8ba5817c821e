use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, DomainEvent)]
enum Audited {
    Opened(Opened),
    Again(Opened),
}

fn main() {}
