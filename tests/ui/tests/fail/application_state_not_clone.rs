use eventbus::prelude::*;

struct Mailer;

fn main() {
    let _ = App::builder().state(Mailer);
}
