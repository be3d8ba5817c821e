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

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Closed;

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened, Closed))]
struct Account {
    owner: String,
}

impl Apply for Account {
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened(opened) => self.owner.clone_from(&opened.owner),
            AccountEvent::Closed(_) => self.owner.clear(),
        }
    }
}

fn main() {
    let _ = AccountEvent::Mine;
}
