use eventbus::{event::Fields, prelude::*};

fn add_currency(_fields: &mut Fields) {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 4, upcast(_, add_currency))]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast())]
struct Withdrawn {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(_, add_currency))]
struct Closed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", upcast(add_currency))]
struct Opened {}

fn main() {}
