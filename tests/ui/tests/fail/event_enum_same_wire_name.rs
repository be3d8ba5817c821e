use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", type = "account.changed")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", type = "account.changed")]
struct Closed {}

#[derive(Debug, Clone, DomainEvent)]
enum Audited {
    Opened(Opened),
    Closed(Closed),
}

fn main() {}
