use eventbus::prelude::*;

#[derive(Debug, Clone)]
enum AccountEvent {
    Mine,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {
    owner: String,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    owner: String,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Mine => self.owner.clear(),
        }
    }
}

fn main() {}
