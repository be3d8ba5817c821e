use eventbus::{InMemoryEventStore, Never, prelude::*};

include!("../shared/account.rs");

async fn open(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.update(id, |_| async { Ok::<_, Never>(Opened { owner: "ada".into() }) }).await;
}

fn main() {
    drop(open(AggregateRepository::new(InMemoryEventStore::new()), &AggregateId::new()));
}
