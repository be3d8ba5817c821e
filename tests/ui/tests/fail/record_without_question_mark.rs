use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

impl Account {
    fn open(&self) -> Result<Opened, std::io::Error> {
        Ok(Opened {})
    }
}

fn main() {
    let mut account = AggregateRoot::<Account>::new(AggregateId::new());
    account.record(account.open());
}
