use std::marker::PhantomData;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    marker: PhantomData<*const u8>,
}

fn main() {}
