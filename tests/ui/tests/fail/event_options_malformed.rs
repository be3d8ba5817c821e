use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event = "opened"]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event("Account", aggregate_type "Account", type = "closed" version = 2, aggregate_type = "Account")]
struct Closed {}

fn main() {}
