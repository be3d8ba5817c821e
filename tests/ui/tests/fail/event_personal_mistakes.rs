use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "User", personal(mail, email, email, "name", address))]
struct SignedUp {
    email: String,
    #[serde(flatten)]
    address: Address,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Address {
    street: String,
}

#[derive(Debug, DomainEvent)]
#[event(personal(email))]
enum Both {
    SignedUp(SignedUp),
}

fn main() {}
