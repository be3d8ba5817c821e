use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(cuorse, course, course, "student", student = pupil, event_type = course))]
struct Enrolled {
    course: String,
    student: String,
}

#[derive(Debug, DomainEvent)]
#[event(tags(course))]
enum Both {
    Enrolled(Enrolled),
}

fn main() {}
