use eventbus::prelude::*;

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
        let AccountEvent::Opened(opened) = event;
        self.owner.clone_from(&opened.owner);
    }
}

fn main() {
    let mut account = AggregateRoot::<Account>::new(AggregateId::new());
    account.owner = "ada".into();
}
