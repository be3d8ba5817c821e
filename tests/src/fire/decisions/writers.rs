//! The writers of a member.

use std::{collections::BTreeSet, fmt, sync::Arc};

use eventbus::{
    AggregateId, ExpectedVersion, Name, Never, NewEvent, StreamId, UpdateError, Uuid,
    port::EventStore,
    prelude::*,
    repository::{Deciding, IdempotencyKey, SavedTogether},
};
use fastrand::Rng;

use super::{COURSES_OF_STUDENT, HOT_COURSES, Member, RATINGS, SEATS};
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

/// A student rated a course: each pair has the numbers from 1 up to [`RATINGS`].
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsEnrolment", type = "FireRated", tags(course, student))]
pub(super) struct Rated {
    pub(super) course: u64,
    pub(super) student: u64,
    pub(super) number: u64,
}

/// A command was carried out, which several writers send with the same key.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "DecisionsEnrolment", type = "FireCarriedOut", tags(course))]
pub(super) struct CarriedOut {
    pub(super) course: u64,
    pub(super) key: String,
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
    /// Decides what a student does who is interested in a course: leaves or enrols.
    pub(super) fn decide(
        &self,
        course: u64,
        student: u64,
        leaves: bool,
    ) -> Result<(Option<Enrolled>, Option<Left>), Refusal> {
        let of_course = self.made.iter().filter(|(of, _)| *of == course).count();
        let of_student = self.made.iter().filter(|(_, of)| *of == student).count();
        match self.made.contains(&(course, student)) {
            true if leaves => Ok((None, Some(Left { course, student }))),
            false if of_course < SEATS && of_student < COURSES_OF_STUDENT => {
                Ok((Some(Enrolled { course, student }), None))
            }
            _ => Err(Refusal),
        }
    }
}

/// A rule forbids it.
#[derive(Debug)]
pub(super) struct Refusal;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rule forbids it")
    }
}

impl std::error::Error for Refusal {}

/// The ratings of a course by a student.
#[derive(Debug, Default, Decision)]
#[decision(events(Rated))]
pub(super) struct Ratings {
    last: u64,
}

impl Apply for Ratings {
    fn apply(&mut self, RatingsEvent::Rated(event): &RatingsEvent) {
        self.last = event.number;
    }
}

/// The commands about a course that were carried out.
#[derive(Debug, Default, Decision)]
#[decision(events(CarriedOut))]
pub(super) struct Commands;

impl Apply for Commands {
    fn apply(&mut self, _event: &CommandsEvent) {}
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
/// The course of the first term that is rated, above all others.
const FIRST_RATED_COURSE: u64 = 1 << 32;
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

/// What became of the decisions of a writer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Outcomes {
    pub(super) decided: u64,
    /// A rule forbade it.
    pub(super) refused: u64,
    /// Given up after conflicts.
    pub(super) conflicts: u64,
}

/// The type of the events with outcomes. No decision reads them.
pub(super) const OUTCOMES: Name = Name::from_static("FireOutcomes");

async fn write(app: &App, member: &Member, mut random: Rng) -> Result<(), HarnessError> {
    let mut outcomes = Outcomes::default();
    for number in 0..member.decisions {
        let choice = Choice::new(&mut random, member.courses, number);
        match retry(async || choice.decide(app).await).await? {
            Outcome::Decided => outcomes.decided += 1,
            Outcome::Refused => outcomes.refused += 1,
            Outcome::Conflict => outcomes.conflicts += 1,
        }
    }
    let event = NewEvent::new(OUTCOMES, 1, serde_json::to_string(&outcomes)?);
    let stream = StreamId::new(Name::from_static("DecisionsWriter"), AggregateId::new());
    // a repeat has the same event id
    retry(async || Ok(app.store().append(&stream, ExpectedVersion::Any, vec![event.clone()]).await?)).await.map(drop)
}

enum Outcome {
    Decided,
    Refused,
    Conflict,
}

/// The random choices for a decision.
struct Choice {
    number: u64,
    course: u64,
    student: u64,
    tenant: Option<Uuid>,
    kind: u8,
    leaves: bool,
}

impl Choice {
    fn new(random: &mut Rng, courses: u64, number: u64) -> Self {
        let (course, student) = choose(random, courses, number);
        let tenant = random.bool().then(|| Uuid::from_u128(random.u128(1..=2)));
        Self { number, course, student, tenant, kind: random.u8(..32), leaves: random.bool() }
    }

    async fn decide(&self, app: &App) -> Result<Outcome, HarnessError> {
        let &Self { number, course, student, tenant, kind, leaves } = self;
        let about_both = || about::<Enrolments>(app, tenant, course).about("student", &student);
        match kind {
            0 if number < DECISIONS_WITH_INVOICES => {
                let decision = app.decision::<Invoices>().about_types();
                outcome(decision.decide(|invoices| Ok::<_, Never>(Invoiced { number: invoices.last + 1 })).await)
            }
            1..5 => outcome(about_both().decide(|_| Ok::<_, Never>(Viewed { course, student })).await),
            5..8 => {
                // a course that nothing else is about, and few students, so that several members decide about both at once
                let (course, student) = (FIRST_RATED_COURSE + number / DECISIONS_OF_TERM, student % 2);
                let both = app.decision::<Ratings>().about_all([("course", &course), ("student", &student)]);
                let rate = |ratings: &Ratings| match ratings.last {
                    RATINGS.. => Err(Refusal),
                    last => Ok(Rated { course, student, number: last + 1 }),
                };
                outcome(both.for_tenant(tenant).decide(rate).await)
            }
            8..11 => {
                // so few keys that several writers send each
                let key = format!("{course}-{}", student % 4);
                let carried_out = CarriedOut { course, key: key.clone() };
                let decision = about::<Commands>(app, tenant, course).once(key.parse::<IdempotencyKey>()?, &key);
                outcome(decision.decide(|_| Ok::<_, Never>(carried_out.clone())).await)
            }
            _ => outcome(about_both().decide(|known| known.decide(course, student, leaves)).await),
        }
    }
}

fn about<D: Decision + Apply>(app: &App, tenant: Option<Uuid>, course: u64) -> Deciding<D> {
    app.decision::<D>().for_tenant(tenant).about("course", &course)
}

fn outcome<X>(decided: Result<SavedTogether, UpdateError<X>>) -> Result<Outcome, HarnessError>
where
    X: std::error::Error + Send + Sync + 'static,
{
    match decided {
        Ok(_) => Ok(Outcome::Decided),
        Err(UpdateError::Refused(_)) => Ok(Outcome::Refused),
        Err(error) if error.is_conflict() => Ok(Outcome::Conflict),
        Err(error) => Err(error.into()),
    }
}
