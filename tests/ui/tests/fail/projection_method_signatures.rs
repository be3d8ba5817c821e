use std::rc::Rc;

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Closed {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Frozen {}

struct Thing;

#[derive(Debug, Default)]
struct Statistics {}

#[projection(name = "statistics")]
impl Statistics {
    fn returns(&self, _event: &Opened) -> u64 {
        1
    }
    fn takes(&self, _event: &Closed, _thing: Thing) {}
    async fn waits(&self, _event: &Frozen) {
        let counter = Rc::new(1);
        std::future::ready(()).await;
        drop(counter);
    }
    fn thing(&self, _event: &Thing) {}
}

fn main() {}
