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

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Cart")]
struct Added {}

async fn story(accounts: &AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.update(id, |_| Ok::<_, std::io::Error>(Added {})).await;
}

fn main() {}
