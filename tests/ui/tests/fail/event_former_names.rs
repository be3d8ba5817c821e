use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", was("Deposited"))]
struct Deposited {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", was("PaidOut", "PaidOut", "", Taken))]
struct Withdrawn {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", was = "Begun")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account", was())]
struct Closed {}

#[derive(Debug, Clone, DomainEvent)]
#[event(was("AnyOf"))]
enum Any {
    Opened(Opened),
}

fn main() {}
