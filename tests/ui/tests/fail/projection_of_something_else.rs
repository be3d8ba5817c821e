use eventbus::{Projected, prelude::*};

#[derive(Debug, Default)]
struct Statistics {}

fn main() {
    let _ = Projected::new(Statistics {});
    let _ = App::builder().projection(Statistics {});
}
