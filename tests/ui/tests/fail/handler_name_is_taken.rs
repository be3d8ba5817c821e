use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
#[allow(non_snake_case)]
async fn Mailer(_event: &Opened) {}

struct Mailer {}

fn main() {}
