use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Opened {}

#[derive(Debug, Default)]
struct Statistics {
    opened: u64,
}

#[projection(name = "statistics")]
impl Statistics {
    fn opened(&mut self, _event: &Opened) {
        self.add(1);
    }

    fn add(&mut self, by: u64) {
        self.opened += by;
    }
}

fn main() {}
