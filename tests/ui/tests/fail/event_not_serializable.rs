use eventbus::prelude::*;

#[derive(Debug, Clone, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    owner: String,
}

#[derive(Debug, Clone, Serialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Closed;

fn main() {}
