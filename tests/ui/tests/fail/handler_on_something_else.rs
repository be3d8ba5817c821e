use eventbus::prelude::*;

#[handler]
struct Mailer;

#[handler]
mod handlers {}

fn main() {
    let _ = Mailer;
}
