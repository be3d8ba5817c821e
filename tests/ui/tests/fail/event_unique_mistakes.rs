use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(mail))]
struct NoSuchField {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(normalize = str::to_lowercase))]
struct NothingToNormalize {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(email, email))]
struct Twice {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique("email"), releases("email"))]
struct InQuotes {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique(email), releases(email))]
struct TakesAndReleases {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", unique = "email")]
struct NoList {
    email: String,
}

fn main() {}
