use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

async fn on_opened(_event: &Opened) {}

fn main() {
    let _ = App::builder().handler::<on_opened>();
}
