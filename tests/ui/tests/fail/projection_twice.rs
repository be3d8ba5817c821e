use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Closed {}

#[derive(Debug, Default)]
struct Statistics {}

#[projection(name = "opened")]
impl Statistics {
    fn opened(&mut self, _event: &Opened) {}
}

#[projection(name = "closed")]
impl Statistics {
    fn closed(&mut self, _event: &Closed) {}
}

fn main() {}
