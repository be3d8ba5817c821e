use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(agregate = Account, verison = 2, type = 7, colour(red, green), aggregate_type = "Account")]
struct Opened {}

fn main() {}
