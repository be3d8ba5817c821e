use eventbus::{ProjectionHandle, prelude::*};

#[derive(Debug, Default)]
struct Statistics {}

fn main() {
    let _ = ProjectionHandle::new(Statistics {});
    let _ = App::builder().projection(Statistics {});
}
