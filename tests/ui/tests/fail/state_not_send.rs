use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[handler]
async fn on_opened(_event: &Opened, _names: State<Rc<str>>) {}

fn main() {}
