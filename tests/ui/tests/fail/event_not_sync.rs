use std::cell::Cell;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    counter: Cell<u32>,
}

fn main() {}
