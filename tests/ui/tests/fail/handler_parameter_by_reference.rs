use eventbus::{handler::EffectKey, prelude::*};

include!("../shared/account.rs");

#[handler]
async fn with_repository(_event: &Opened, _accounts: &Repository<Account>) {}

#[handler]
async fn with_mutable_repository(_event: &Opened, _accounts: &mut Repository<Account>) {}

#[handler]
async fn with_key(_event: &Opened, _key: &EffectKey) {}

fn main() {}
