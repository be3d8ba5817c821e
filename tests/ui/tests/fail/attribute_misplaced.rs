use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    #[event(version = 2)]
    owner: String,
}

#[derive(Debug, Clone, DomainEvent)]
enum Audited {
    #[event(type = "opened")]
    Opened(Opened),
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {
    #[aggregate(id)]
    id: String,
}

fn main() {}
