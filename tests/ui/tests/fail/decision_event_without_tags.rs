use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course")]
struct Enrolled {
    course: String,
}

#[derive(Default, Decision)]
#[decision(events(Enrolled))]
struct Seats {}

impl Apply for Seats {
    fn apply(&mut self, _event: &SeatsEvent) {}
}

fn main() {}
