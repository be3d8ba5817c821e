use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct Defined {
    course: String,
}

#[derive(Default, Decision)]
struct NoEvents {}

#[derive(Default, Decision)]
#[decision(events())]
struct Empty {}

#[derive(Default, Decision)]
#[decision(events(Defined, Defined), snapshot(every = 5))]
struct Twice {}

#[derive(Default, Decision)]
#[decision(events(Defined))]
struct Generic<T> {
    value: T,
}

#[derive(Default, Decision)]
#[event(events(Defined))]
struct Misplaced {}

fn main() {}
