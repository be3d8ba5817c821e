//! The event and the decision of the workloads about tags: enrolments in courses, with about 300 bytes of fields.

use eventbus::prelude::*;
use uuid::Uuid;

pub const EVENT_TYPE: &str = "Enrolled";
pub const AGGREGATE_TYPE: &str = "Enrolment";
pub const SEATS: u32 = 10;
pub const COURSES_PER_STUDENT: u32 = 10;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Enrolment", tags(course, student))]
pub struct Enrolled {
    pub course: Uuid,
    pub student: Uuid,
    /// From 1, without gaps: two decisions that did not know of each other give the same seat.
    pub seat: u32,
    pub title: String,
    pub name: String,
    pub fee_cents: u64,
    pub currency: String,
    pub is_guest: bool,
}

/// The enrolments in one course, and those of one student.
#[derive(Debug, Default, Decision)]
#[decision(events(Enrolled))]
pub struct Enrolments {
    pairs: Vec<(Uuid, Uuid)>,
}

impl Apply for Enrolments {
    fn apply(&mut self, EnrolmentsEvent::Enrolled(event): &EnrolmentsEvent) {
        self.add(event);
    }
}

impl Enrolments {
    pub fn add(&mut self, event: &Enrolled) {
        self.pairs.push((event.course, event.student));
    }

    pub fn enrol(&self, course: Uuid, student: Uuid) -> Result<Enrolled, &'static str> {
        let taken = self.count(|pair| pair.0 == course);
        match () {
            () if taken >= SEATS => Err("no seat is left"),
            () if self.count(|pair| pair.1 == student) >= COURSES_PER_STUDENT => Err("too many courses"),
            () => Ok(Enrolled {
                course,
                student,
                seat: taken + 1,
                title: "Grundzüge der Lagerhaltung, with exercises and an excursion".into(),
                name: "Augusta Ada Byron King, Countess of Lovelace".into(),
                fee_cents: 12_500,
                currency: "EUR".into(),
                is_guest: false,
            }),
        }
    }
    fn count(&self, is_counted: impl Fn(&(Uuid, Uuid)) -> bool) -> u32 {
        self.pairs.iter().map(|pair| u32::from(is_counted(pair))).sum()
    }
}
