#![forbid(unsafe_code)]

use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    #[serde(skip)]
    name: Option<Rc<u8>>,
}

fn main() {}
