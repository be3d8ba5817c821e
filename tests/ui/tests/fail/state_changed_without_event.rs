use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    is_open: bool,
}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

impl Account {
    fn open(&self) -> Result<Opened, std::io::Error> {
        Ok(Opened {})
    }
}

fn story(order: &mut AggregateRoot<Account>) {
    order.is_open = true;
    order.state().apply(&AccountEvent::Opened(Opened {}));
}

fn main() {}
