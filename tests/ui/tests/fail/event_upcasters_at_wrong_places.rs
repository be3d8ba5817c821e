use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast(_, DepositedV1))]
struct Deposited {}

#[derive(Deserialize, OldEvent)]
#[event(of = Deposited, version = 1)]
struct DepositedV1 {}

impl From<DepositedV1> for Deposited {
    fn from(_: DepositedV1) -> Self {
        Self {}
    }
}

// two structs of one version
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast(WithdrawnV1, WithdrawnInEuros))]
struct Withdrawn {}

#[derive(Deserialize, OldEvent)]
#[event(of = Withdrawn, version = 1)]
struct WithdrawnV1 {}

#[derive(Deserialize, OldEvent)]
#[event(of = Withdrawn, version = 1)]
struct WithdrawnInEuros {}

impl From<WithdrawnV1> for WithdrawnInEuros {
    fn from(_: WithdrawnV1) -> Self {
        Self {}
    }
}

impl From<WithdrawnInEuros> for Withdrawn {
    fn from(_: WithdrawnInEuros) -> Self {
        Self {}
    }
}

fn main() {}
