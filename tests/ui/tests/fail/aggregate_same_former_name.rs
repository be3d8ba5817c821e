use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account, was("MoneyPaidIn"))]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct MoneyPaidIn {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited, MoneyPaidIn), retired("Viewed", "Deposited"))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

fn main() {}
