use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened, Closed))]
struct Account {
    is_open: bool,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(_) => self.is_open = true,
        }
    }
}

fn main() {}
