use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast(DepositedV1, DepositedV1))]
struct Deposited {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedV1 {}

impl From<DepositedV1> for Deposited {
    fn from(_: DepositedV1) -> Self {
        Self {}
    }
}

fn main() {}
