use eventbus::prelude::*;

mod legacy {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Account", type = "legacy.closed")]
    pub struct Closed {}
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Closed, Opened, legacy::Closed, Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _event: &AccountEvent) {}
}

fn main() {}
