use eventbus::{InMemoryEventStore, Never, prelude::*};

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

async fn open(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.upsert(id, async |_| Ok::<_, Never>(Opened { owner: "ada".into() })).await;
}

fn main() {
    drop(open(AggregateRepository::new(InMemoryEventStore::new()), &AggregateId::new()));
}
