use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(score))]
struct Scored {
    score: f64,
}

fn lower(value: String) -> String {
    value.to_lowercase()
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(email, normalize = lower))]
struct Registered {
    email: String,
}

fn main() {}
