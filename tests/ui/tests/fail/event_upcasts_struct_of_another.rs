use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(WithdrawnV1))]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(WithdrawnV1))]
struct Withdrawn {}

#[derive(Deserialize, OldEvent)]
#[event(of = Withdrawn, version = 1)]
struct WithdrawnV1 {}

impl From<WithdrawnV1> for Withdrawn {
    fn from(_: WithdrawnV1) -> Self {
        Self {}
    }
}

impl From<WithdrawnV1> for Deposited {
    fn from(_: WithdrawnV1) -> Self {
        Self {}
    }
}

fn main() {}
