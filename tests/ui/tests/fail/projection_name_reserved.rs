//! What the names of checkpoints and leases keep for shards, tenants and the copies of a rebuild.
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

#[derive(Default)]
struct Copies;

#[projection(name = "owners:v2")]
impl Copies {
    fn opened(&mut self, _event: &Opened) {}
}

fn main() {}
