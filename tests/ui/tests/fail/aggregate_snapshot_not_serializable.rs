use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {}

#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(events(Deposited), snapshot(every = 100))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

fn main() {}
