use eventbus::{event::Fields, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast("add_currency", |fields| {}))]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast = add_currency)]
struct Withdrawn {}

fn add_currency(_fields: &mut Fields) -> usize {
    0
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(add_currency))]
struct Opened {}

fn rename(_fields: Fields) {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(rename))]
struct Closed {}

fn main() {}
