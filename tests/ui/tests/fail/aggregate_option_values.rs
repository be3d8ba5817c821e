use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened), type = Account, event = "AccountEvent", crate)]
struct Account {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events = Opened, type = "\u{1}")]
struct Savings {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events())]
struct Empty {}

fn main() {}
