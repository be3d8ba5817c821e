//! Characters that the names of checkpoints keep for shards and tenants.
use eventbus::prelude::*;

include!("../shared/account.rs");

#[derive(Default)]
struct Owners;

#[projection(name = "owners#1")]
impl Owners {
    fn opened(&mut self, _event: &Opened) {}
}

#[derive(Default)]
struct Tenants;

#[projection(name = "owners@acme")]
impl Tenants {
    fn opened(&mut self, _event: &Opened) {}
}

fn main() {}
