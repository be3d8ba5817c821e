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

// a slip: the struct is that of an event that has it in its own list, and converts into that one only
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 3, upcast(_, WithdrawnV1))]
struct Opened {}

// the event of the struct does not list it
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", version = 2, upcast(FrozenV1))]
struct Closed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Frozen {}

#[derive(Deserialize, OldEvent)]
#[event(of = Frozen, version = 1)]
struct FrozenV1 {}

impl From<FrozenV1> for Frozen {
    fn from(_: FrozenV1) -> Self {
        Self {}
    }
}

fn main() {}
