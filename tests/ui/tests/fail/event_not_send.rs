#![forbid(unsafe_code)]

use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {
    #[serde(with = "shared")]
    name: Option<Rc<u8>>,
}

mod shared {
    use std::rc::Rc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Rc<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rc<u8>>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(Rc::new))
    }
}

fn main() {}
