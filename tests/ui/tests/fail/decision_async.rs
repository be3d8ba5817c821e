use eventbus::{InMemoryEventStore, Never, prelude::*};

include!("../shared/account.rs");

async fn open(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.upsert(id, async |_| Ok::<_, Never>(Opened { owner: "ada".into() })).await;
}

async fn change(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.update_root(id, async |_| Ok::<_, Never>(())).await;
}

async fn decide(_: &Account) -> Result<Opened, Never> {
    Ok(Opened { owner: "ada".into() })
}

async fn begin(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.create(id, decide).await;
}

fn main() {
    let (accounts, id) = (AggregateRepository::new(InMemoryEventStore::new()), AggregateId::new());
    drop((open(accounts.clone(), &id), change(accounts.clone(), &id), begin(accounts, &id)));
}
