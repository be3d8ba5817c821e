use eventbus::{InMemoryEventStore, prelude::*};

include!("../shared/account.rs");

async fn open(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.update(id, |_| Opened { owner: "ada".into() }).await;
}

fn main() {
    drop(open(AggregateRepository::new(InMemoryEventStore::new()), &AggregateId::new()));
}
