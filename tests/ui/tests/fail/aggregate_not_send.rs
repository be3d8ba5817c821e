#![forbid(unsafe_code)]

use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    owner: Rc<String>,
}

impl Apply for Account {
    fn apply(&mut self, _: &AccountEvent) {}
}

fn main() {}
