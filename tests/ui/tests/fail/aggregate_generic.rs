use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account<T> {
    owner: T,
}

fn main() {}
