use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
async fn named<'a>(_event: &'a Opened, _meta: &'a Metadata) {}

#[handler]
async fn forever(_event: &'static Opened) {}

fn main() {}
