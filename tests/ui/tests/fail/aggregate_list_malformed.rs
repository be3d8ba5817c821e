use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened, "Closed", Closed as "Shut", Vec<Opened>))]
struct Account {}

fn main() {}
