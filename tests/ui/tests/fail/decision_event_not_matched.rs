use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct Defined {
    course: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct Enrolled {
    course: String,
}

#[derive(Default, Decision)]
#[decision(events(Defined, Enrolled))]
struct Seats {}

impl Apply for Seats {
    fn apply(&mut self, event: &SeatsEvent) {
        match event {
            SeatsEvent::Defined(_) => {}
        }
    }
}

#[derive(Default, Decision)]
#[decision(events(Defined))]
struct WithoutApply {}

fn main() {}
