use eventbus::{event::Fields, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(DepositedV1))]
struct Deposited {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedV1 {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast(WithdrawnV1, add_currency))]
struct Withdrawn {}

#[derive(Deserialize, OldEvent)]
#[event(of = Withdrawn, version = 1)]
struct WithdrawnV1 {}

fn add_currency(_fields: &mut Fields) {}

fn main() {}
