//! Decisions and tags in every form.

use std::collections::BTreeSet;

use eventbus::{Never, event::FieldText, prelude::*};

mod other {
    use eventbus::prelude::*;

    #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    #[event(aggregate_type = "Other", type = "OtherLeft", tags(event_type))]
    pub struct Left {}
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CourseId(u32);

impl FieldText for CourseId {
    fn field_text(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.to_string().into())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course, student = r#pupil, room, term, event_type))]
struct Enrolled {
    course: CourseId,
    r#pupil: AggregateId,
    room: Option<u8>,
    term: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
struct Left {
    course: BTreeSet<String>,
}

#[derive(Debug, Default, Decision)]
#[decision(events(Enrolled, Left, other::Left as OtherLeft), event = Enrolment)]
enum Seats {
    #[default]
    Free,
    Taken,
}

impl Apply for Seats {
    fn apply(&mut self, event: &Enrolment) {
        *self = match event {
            Enrolment::Enrolled(_) => Self::Taken,
            Enrolment::Left(_) | Enrolment::OtherLeft(_) => Self::Free,
        };
    }
}

async fn decide(app: &App, student: AggregateId) -> eventbus::Result<()> {
    let decision = app.decision::<Seats>().about("course", &CourseId(1)).about("student", &student);
    decision.decide(|_| Ok::<_, Never>((Left { course: BTreeSet::new() }, [other::Left {}]))).await?;
    app.decision::<Seats>().about_all([("course", &1_u32), ("term", &"t")]).load().await?;
    Ok(())
}

#[test]
fn runs() {
    let _ = decide;
}
