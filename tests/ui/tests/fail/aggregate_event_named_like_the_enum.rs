use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct AccountEvent {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(AccountEvent))]
struct Account {}

fn main() {}
