use eventbus::prelude::*;

#[derive(Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

fn main() {}
