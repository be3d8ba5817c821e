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

#[derive(Debug, Default)]
struct Statistics {}

#[projection(name = "statistics")]
impl Statistics {
    fn opened(&mut self, _event: &Opened) {}
    fn changed(&mut self, _event: Envelope<AccountEvent>) {}
}

fn main() {}
