use eventbus::{Never, prelude::*};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct Defined {
    course: String,
}

#[derive(Debug, Default, Decision)]
#[decision(events(Defined))]
struct Courses;

impl Apply for Courses {
    fn apply(&mut self, _event: &CoursesEvent) {}
}

#[derive(Default)]
struct Thing {}

async fn decide(app: App) -> eventbus::Result<()> {
    app.decision::<Thing>();
    app.decision::<Courses>().about("course", "rust").decide(|_| Ok::<_, Never>("no event")).await?;
    app.decision::<Courses>().about("course", &1.5);
    Ok(())
}

fn main() {}
