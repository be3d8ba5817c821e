use eventbus::prelude::*;

include!("../shared/account.rs");

#[handler]
async fn by_value(_event: &Opened, _accounts: AggregateRepository<Account>) {}

#[handler]
async fn by_reference(_event: &Opened, _accounts: &eventbus::AggregateRepository<Account>) {}

fn main() {}
