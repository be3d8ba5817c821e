use eventbus::{handler::Handler, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
fn on_opened(_event: &Opened) {}

fn main() {
    let _ = on_opened::definition();
}
