//! The domain of the tests of decisions: courses and their seats, over the events of several aggregates.

use eventbus::prelude::*;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Course", tags(course))]
pub struct CourseDefined {
    pub course: String,
    pub seats: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Enrolment", tags(course, student))]
pub struct Enrolled {
    pub course: String,
    pub student: String,
}

/// Is named like an event that the decision lists, and lacks a field of it.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Waitlist", type = "Enrolled", tags(course))]
pub struct Waiting {
    pub course: String,
}

/// No decision lists it.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Invoice", tags(student))]
pub struct Invoiced {
    pub student: String,
    pub euros: f64,
}

#[derive(Debug, Default, Decision)]
#[decision(events(CourseDefined, Enrolled))]
pub struct Seats {
    pub seats: usize,
    pub students: Vec<String>,
}

impl Apply for Seats {
    fn apply(&mut self, event: &SeatsEvent) {
        match event {
            SeatsEvent::CourseDefined(defined) => self.seats = defined.seats,
            SeatsEvent::Enrolled(enrolled) => self.students.push(enrolled.student.clone()),
        }
    }
}

#[derive(Debug)]
pub enum SeatsError {
    Full { seats: usize },
    Unknown,
}

impl Seats {
    /// Enrols a student, who may be enrolled already.
    pub fn enrol(&self, course: &str, student: &str) -> Result<Option<Enrolled>, SeatsError> {
        match self.seats {
            0 => Err(SeatsError::Unknown),
            _ if self.students.iter().any(|enrolled| enrolled == student) => Ok(None),
            seats if self.students.len() >= seats => Err(SeatsError::Full { seats }),
            _ => Ok(Some(enrolled(course, student))),
        }
    }

    /// Enrols a student, and sends an invoice: events of two aggregates.
    pub fn sell(&self, course: &str, student: &str, euros: f64) -> Result<(Option<Enrolled>, Invoiced), SeatsError> {
        Ok((self.enrol(course, student)?, Invoiced { student: student.into(), euros }))
    }
}

pub fn defined(course: &str, seats: usize) -> CourseDefined {
    CourseDefined { course: course.into(), seats }
}

pub fn enrolled(course: &str, student: &str) -> Enrolled {
    Enrolled { course: course.into(), student: student.into() }
}
