use eventbus::prelude::*;

#[handler]
async fn on_opened() {}

fn main() {}
