use eventbus::prelude::*;

#[derive(Clone, Copy, DomainEvent)]
#[event(aggregate_type = "Account")]
union Opened {
    cents: u64,
    text: [u8; 8],
}

fn main() {}
