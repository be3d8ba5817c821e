use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
async fn event(_event: impl DomainEvent) {}

#[handler]
async fn parameter(_event: &Opened, _writer: State<impl std::io::Write>) {}

fn main() {}
