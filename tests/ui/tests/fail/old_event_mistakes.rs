use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2)]
struct Deposited {}

#[derive(Deserialize, OldEvent)]
struct DepositedV1 {}

#[derive(Deserialize, OldEvent)]
#[event(of = "Deposited", version = 0)]
struct DepositedV0 {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1, aggregate = Account)]
struct DepositedWithAggregate {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedTuple(u8);

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedOf<T> {
    amount: T,
}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedUnit;

fn main() {}
