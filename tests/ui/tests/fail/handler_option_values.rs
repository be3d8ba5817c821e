use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler(retries = -1, timeout_ms = 0, concurrency = 0, name = on_opened, group = "")]
async fn zeros(_event: &Opened) {}

#[handler(retries = "3", timeout_ms = "30s", concurrency = 1.5, name = 7, group, manual = true)]
async fn kinds(_event: &Opened) {}

fn main() {}
