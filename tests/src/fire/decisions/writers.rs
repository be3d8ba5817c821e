//! The writers of a member.

use std::{collections::BTreeSet, sync::Arc};

use eventbus::{Never, UpdateError, port::EventStore, prelude::*};
use fastrand::Rng;

use super::{COURSES_OF_STUDENT, HOT_COURSES, Member, SEATS};
use crate::fire::{HarnessError, place::retry};

/// A student enrolled in a course.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsEnrolment", type = "FireEnrolled", tags(course, student))]
pub(super) struct Enrolled {
    pub(super) course: u64,
    pub(super) student: u64,
}

/// A student left a course.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsEnrolment", type = "FireLeft", tags(course, student))]
pub(super) struct Left {
    pub(super) course: u64,
    pub(super) student: u64,
}

/// A student looked at a course: no decision reads it.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsEnrolment", type = "FireViewed", tags(course, student))]
pub(super) struct Viewed {
    pub(super) course: u64,
    pub(super) student: u64,
}

/// An invoice got its number.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsInvoice", type = "FireInvoiced", tags(event_type))]
pub(super) struct Invoiced {
    pub(super) number: u64,
}

/// The courses of a student, and the students of a course, in pairs.
#[derive(Debug, Default, Decision)]
#[decision(events(Enrolled, Left))]
pub(super) struct Enrolments {
    made: BTreeSet<(u64, u64)>,
}

impl Apply for Enrolments {
    fn apply(&mut self, event: &EnrolmentsEvent) {
        match event {
            EnrolmentsEvent::Enrolled(event) => drop(self.made.insert((event.course, event.student))),
            EnrolmentsEvent::Left(event) => drop(self.made.remove(&(event.course, event.student))),
        }
    }
}

impl Enrolments {
    /// Decides what a student does who is interested in a course: leaves, enrols, or neither.
    pub(super) fn decide(&self, course: u64, student: u64, leaves: bool) -> (Option<Enrolled>, Option<Left>) {
        let of_course = self.made.iter().filter(|(of, _)| *of == course).count();
        let of_student = self.made.iter().filter(|(_, of)| *of == student).count();
        match self.made.contains(&(course, student)) {
            true => (None, leaves.then_some(Left { course, student })),
            false if of_course < SEATS && of_student < COURSES_OF_STUDENT => (Some(Enrolled { course, student }), None),
            false => (None, None),
        }
    }
}

#[derive(Debug, Default, Decision)]
#[decision(events(Invoiced))]
pub(super) struct Invoices {
    last: u64,
}

impl Apply for Invoices {
    fn apply(&mut self, InvoicesEvent::Invoiced(event): &InvoicesEvent) {
        self.last = event.number;
    }
}

/// Decisions of a writer about the same courses and students; then there are new ones, so that the events to read stay few.
const DECISIONS_OF_TERM: u64 = 100;
/// Decisions of a writer among which there are invoices, which are about all invoices.
const DECISIONS_WITH_INVOICES: u64 = 50;

/// Chooses a course, a hot one every second time, and a student, for a decision of this number.
pub(super) fn choose(random: &mut Rng, courses: u64, number: u64) -> (u64, u64) {
    let term = number / DECISIONS_OF_TERM;
    let course = if random.bool() { random.u64(..HOT_COURSES) } else { random.u64(..courses) };
    (term * courses + course, 4 * (term * courses) + random.u64(..4 * courses))
}

/// Makes the decisions of all writers of a member.
pub(super) async fn run(member: Member) -> Result<(), HarnessError> {
    let store: Arc<dyn EventStore> = retry(async || member.place.open().await).await?;
    let app = retry(async || Ok(App::builder().store(Arc::clone(&store)).without_relay().start().await?)).await?;
    let mut random = Rng::with_seed(member.seed);
    let writers = (0..member.writers).map(|_| write(&app, &member, random.fork()));
    futures_util::future::try_join_all(writers).await.map(drop)
}

async fn write(app: &App, member: &Member, mut random: Rng) -> Result<(), HarnessError> {
    for number in 0..member.decisions {
        let (course, student) = choose(&mut random, member.courses, number);
        let (kind, leaves) = (random.u8(..32), random.bool());
        retry(async || {
            let about_both = app.decision::<Enrolments>().about("course", &course).about("student", &student);
            let decided = match kind {
                0 if number < DECISIONS_WITH_INVOICES => {
                    let decision = app.decision::<Invoices>().about_types();
                    decision.decide(|invoices| Ok::<_, Never>(Invoiced { number: invoices.last + 1 })).await
                }
                1..5 => about_both.decide(|_| Ok::<_, Never>(Viewed { course, student })).await,
                _ => about_both.decide(|known| Ok::<_, Never>(known.decide(course, student, leaves))).await,
            };
            match decided {
                Err(UpdateError::Save(error)) if error.is_conflict() => Ok(()),
                other => Ok(other.map(drop)?),
            }
        })
        .await?;
    }
    Ok(())
}
