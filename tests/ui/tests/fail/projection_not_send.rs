#![forbid(unsafe_code)]

use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Opened {}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Opened))]
struct Account {}

impl Apply for Account {
    fn apply(&mut self, _: &AccountEvent) {}
}

#[derive(Debug, Default)]
struct Owners {
    names: Rc<Vec<String>>,
}

#[projection(name = "owners")]
impl Owners {
    fn opened(&mut self, _event: &Opened) {}
}

async fn start() {
    let _ = App::builder().projection(Owners::default()).start().await;
}

fn main() {
    drop(start());
}
