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

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[serde(into = "Address", from = "Address")]
#[event(aggregate_type = "User", personal(street))]
struct Moved {
    street: String,
}

impl From<Address> for Moved {
    fn from(address: Address) -> Self {
        Self { street: address.street }
    }
}

impl From<Moved> for Address {
    fn from(moved: Moved) -> Self {
        Self { street: moved.street }
    }
}

#[derive(Debug, DomainEvent)]
#[event(personal(email))]
enum Both {
    SignedUp(SignedUp),
}

fn main() {}
