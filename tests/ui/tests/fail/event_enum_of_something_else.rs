use eventbus::prelude::*;

struct NoEvent {}

#[derive(DomainEvent)]
enum Audited {
    Number(u64),
    Other(NoEvent),
}

fn main() {}
