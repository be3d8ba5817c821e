//! The auditor of decisions: follows the events, and compares the counts of their tags with those that the store has.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    DomainEvent as _, EventSet as _, Name, Position,
    event::Tag,
    port::{EventStore, FeedFilter},
    store::Boundary,
};
use futures_util::TryStreamExt as _;

use super::{
    COURSES_OF_STUDENT, SEATS,
    writers::{Enrolled, Invoiced, Left, Viewed},
};
use crate::fire::HarnessError;

/// Fewer enrolments show that decisions fail that could be made.
const ENROLMENTS_MIN: u64 = 50;

/// What the auditor found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) events: u64,
    /// Events that no decision would have made after those before them.
    pub(super) violations: Vec<String>,
    pub(super) failures: Vec<String>,
}

/// The rules of courses and students, applied event by event.
#[derive(Debug, Default)]
pub(super) struct Rules {
    enrolled: BTreeSet<(u64, u64)>,
    of_course: BTreeMap<u64, usize>,
    of_student: BTreeMap<u64, usize>,
    last_invoice: u64,
    /// Number of enrolments, also of those that ended.
    made: u64,
}

impl Rules {
    /// Takes an enrolment; returns what it breaks.
    pub(super) fn enrol(&mut self, course: u64, student: u64) -> Option<String> {
        self.made += 1;
        let is_new = self.enrolled.insert((course, student));
        let of_course = self.of_course.entry(course).or_default();
        let of_student = self.of_student.entry(student).or_default();
        (*of_course, *of_student) = (*of_course + 1, *of_student + 1);
        let is_broken = !is_new || *of_course > SEATS || *of_student > COURSES_OF_STUDENT;
        is_broken.then(|| {
            format!("student {student}, now of {of_student} courses, enrolled in course {course}, now of {of_course}")
        })
    }

    /// Takes the end of an enrolment; returns what it breaks.
    pub(super) fn leave(&mut self, course: u64, student: u64) -> Option<String> {
        if !self.enrolled.remove(&(course, student)) {
            return Some(format!("student {student} left course {course} without having enrolled"));
        }
        self.of_course.entry(course).and_modify(|count| *count -= 1);
        self.of_student.entry(student).and_modify(|count| *count -= 1);
        None
    }

    /// Takes the number of an invoice; returns what it breaks.
    fn invoice(&mut self, number: u64) -> Option<String> {
        let wanted = self.last_invoice + 1;
        self.last_invoice = number;
        (number != wanted).then(|| format!("invoice {number} follows invoice {}", wanted - 1))
    }
}

/// Checks the events of a store.
pub(super) async fn audit(store: &dyn EventStore) -> Result<Findings, HarnessError> {
    let (mut findings, mut rules) = (Findings::default(), Rules::default());
    let mut counts: BTreeMap<(Tag, Name), u64> = BTreeMap::new();
    let (head, filter) = (store.head().await?, FeedFilter::all());
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(event) = feed.try_next().await? {
        findings.events += 1;
        let event_type = event.event_type().clone();
        let mut count = |tag: Tag| *counts.entry((tag, event_type.clone())).or_default() += 1;
        let broken = match event_type.as_str() {
            Invoiced::EVENT_TYPE => {
                count(Tag::new("event_type", Invoiced::EVENT_TYPE)?);
                rules.invoice(Invoiced::decode(&event)?.number)
            }
            name => {
                let (course, student, broken) = match name {
                    Enrolled::EVENT_TYPE => {
                        let Enrolled { course, student } = event.decode()?;
                        (course, student, rules.enrol(course, student))
                    }
                    Left::EVENT_TYPE => {
                        let Left { course, student } = event.decode()?;
                        (course, student, rules.leave(course, student))
                    }
                    _ => {
                        let Viewed { course, student } = event.decode()?;
                        (course, student, None)
                    }
                };
                count(Tag::new("course", &course)?);
                count(Tag::new("student", &student)?);
                broken
            }
        };
        findings.violations.extend(broken.map(|broken| format!("{broken}, at position {:?}", event.position())));
    }
    if rules.made < ENROLMENTS_MIN || rules.last_invoice == 0 {
        let (made, invoices) = (rules.made, rules.last_invoice);
        findings.failures.push(format!("only {made} enrolments and {invoices} invoices were made"));
    }
    let boundaries = store.boundaries().ok_or("the store has no boundaries")?;
    let mut differing = Vec::new();
    for ((tag, event_type), wanted) in counts {
        let items = [[tag.clone()].into()].into();
        let boundary = Boundary { tenant_id: None, event_types: [event_type.clone()].into(), items };
        let counted = boundaries.count_tagged(&boundary).await?.counts;
        if counted != [wanted] {
            differing.push(format!("{} of {event_type}: counted {counted:?}, stored {wanted}", tag.as_str()));
        }
    }
    if let Some(first) = differing.first() {
        findings.failures.push(format!("{} counts differ from the events: {first}", differing.len()));
    }
    Ok(findings)
}
