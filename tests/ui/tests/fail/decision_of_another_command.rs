use eventbus::{InMemoryEventStore, Never, prelude::*};

include!("../shared/account.rs");

#[derive(Clone)]
struct Open {
    owner: String,
}

impl Account {
    fn open(&self, command: Open) -> Result<Opened, Never> {
        Ok(Opened { owner: command.owner })
    }
}

async fn open(accounts: AggregateRepository<Account>, id: &AggregateId, command: Open) {
    let _ = accounts.create_with(id, &command, Account::open).await;
}

#[derive(Deserialize)]
struct Close;

async fn close(accounts: AggregateRepository<Account>, id: &AggregateId) {
    let _ = accounts.update_with(id, Close, |_, _: Close| Ok::<_, Never>(None::<Opened>)).await;
}

fn main() {
    let (accounts, id) = (AggregateRepository::new(InMemoryEventStore::new()), AggregateId::new());
    let command = Open { owner: "ada".into() };
    drop((open(accounts.clone(), &id, command), close(accounts, &id)));
}
