use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, DomainEvent)]
enum Audited {
    Opened(Opened),
    Closed { reason: String },
    Frozen,
    Both(Opened, Opened),
}

#[derive(Debug, Clone, DomainEvent)]
enum Nothing {}

#[handler]
async fn audit(_event: &Audited) {}

fn main() {}
