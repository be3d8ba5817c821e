use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2)]
struct Deposited {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedV1 {}

fn main() {}
