use eventbus::{handler::Handler, prelude::*};

async fn on_recorded(_event: &RecordedEvent) {}

struct NoHandler;

fn register<H: Handler>() {
    let _ = H::definition();
}

fn main() {
    register::<on_recorded>();
    register::<NoHandler>();
}
