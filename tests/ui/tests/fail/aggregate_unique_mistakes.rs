use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, unique(email, normalize = str::to_lowercase))]
struct Registered {
    email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, unique(email = address))]
struct Moved {
    address: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = User, releases(mail))]
struct Left {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Registered, Moved, Left))]
struct User {}

impl Apply for User {
    fn apply(&mut self, _event: &UserEvent) {}
}

fn main() {}
