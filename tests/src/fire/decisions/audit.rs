//! The auditor of decisions: follows the events, and compares the counts of their tags with those that the store has.

use std::collections::{BTreeMap, BTreeSet};

use eventbus::{
    DomainEvent as _, EventSet as _, Name, Position, RecordedEvent, Uuid,
    event::Tag,
    port::{EventStore, FeedFilter},
    store::Boundary,
};
use futures_util::TryStreamExt as _;

use super::{
    COURSES_OF_STUDENT, RATINGS, SEATS, TENANTS,
    writers::{CarriedOut, Enrolled, Invoiced, Left, OUTCOMES, Outcomes, Rated, Viewed},
};
use crate::fire::HarnessError;

/// Fewer enrolments show that decisions fail that could be made, of all or of one tenant; of ratings and commands too.
const ENROLMENTS_MIN: u64 = 50;
const OF_TENANT_MIN: u64 = 5;

/// What the auditor found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) events: u64,
    /// What became of the decisions of the members that were not killed.
    pub(super) outcomes: Outcomes,
    /// Events that no decision would have made after those before them.
    pub(super) violations: Vec<String>,
    pub(super) failures: Vec<String>,
}

/// The rules of courses and students of one tenant, applied event by event.
#[derive(Debug, Default)]
pub(super) struct Rules {
    enrolled: BTreeSet<(u64, u64)>,
    of_course: BTreeMap<u64, usize>,
    of_student: BTreeMap<u64, usize>,
    ratings: BTreeMap<(u64, u64), u64>,
    /// The keys of the commands that were carried out.
    commands: BTreeSet<String>,
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

    /// Takes a rating; returns what it breaks.
    fn rate(&mut self, rated: &Rated) -> Option<String> {
        let last = self.ratings.entry((rated.course, rated.student)).or_default();
        let wanted = *last + 1;
        *last = rated.number;
        let is_broken = rated.number != wanted || rated.number > RATINGS;
        is_broken.then(|| format!("{rated:?} follows rating {}", wanted - 1))
    }

    /// Takes a command; returns what it breaks.
    fn carry_out(&mut self, key: &str) -> Option<String> {
        (!self.commands.insert(key.into())).then(|| format!("command {key} was carried out again"))
    }

    /// Takes the number of an invoice; returns what it breaks.
    fn invoice(&mut self, number: u64) -> Option<String> {
        let wanted = self.last_invoice + 1;
        self.last_invoice = number;
        (number != wanted).then(|| format!("invoice {number} follows invoice {}", wanted - 1))
    }
}

/// How many events of a type have a tag.
type Counts = BTreeMap<(Option<Uuid>, Tag, Name), u64>;

/// Checks the events of a store.
pub(super) async fn audit(store: &dyn EventStore) -> Result<Findings, HarnessError> {
    let mut findings = Findings::default();
    let (mut rules, mut counts) = (BTreeMap::<Option<Uuid>, Rules>::new(), Counts::new());
    let (head, filter) = (store.head().await?, FeedFilter::all());
    let mut feed = store.read_feed(Position::START, head, &filter);
    while let Some(event) = feed.try_next().await? {
        if *event.event_type() == OUTCOMES {
            let Outcomes { decided, refused, conflicts } = serde_json::from_str(event.payload())?;
            findings.outcomes.decided += decided;
            findings.outcomes.refused += refused;
            findings.outcomes.conflicts += conflicts;
            continue;
        }
        findings.events += 1;
        let tenant = event.metadata().tenant_id();
        let (tags, broken) = take(&event, rules.entry(tenant).or_default())?;
        for (name, value) in tags {
            *counts.entry((tenant, Tag::new(name, &value)?, event.event_type().clone())).or_default() += 1;
        }
        findings.violations.extend(broken.map(|broken| format!("{broken}, at position {:?}", event.position())));
    }
    let sum = |number: fn(&Rules) -> u64| rules.values().map(number).sum::<u64>();
    let (made, invoices) = (sum(|rules| rules.made), sum(|rules| rules.last_invoice));
    if made < ENROLMENTS_MIN || invoices == 0 {
        findings.failures.push(format!("only {made} enrolments and {invoices} invoices were made"));
    }
    if rules.len() != TENANTS {
        findings.failures.push(format!("{} tenants have events", rules.len()));
    }
    for (tenant, rules) in &rules {
        let of_tenant = [rules.made, rules.ratings.values().sum(), rules.commands.len() as u64];
        if of_tenant.into_iter().any(|made| made < OF_TENANT_MIN) {
            findings
                .failures
                .push(format!("tenant {tenant:?} has only {of_tenant:?} enrolments, ratings and commands"));
        }
    }
    if let Some(wrong) = find_wrong_count(store, counts).await? {
        findings.failures.push(wrong);
    }
    Ok(findings)
}

/// The tags of an event, and what it breaks.
type Taken = (Vec<(&'static str, String)>, Option<String>);

/// Takes an event.
fn take(event: &RecordedEvent, rules: &mut Rules) -> Result<Taken, HarnessError> {
    let both = |course: u64, student: u64| vec![("course", course.to_string()), ("student", student.to_string())];
    Ok(match event.event_type().as_str() {
        Invoiced::EVENT_TYPE => {
            let broken = rules.invoice(Invoiced::decode(event)?.number);
            (vec![("event_type", Invoiced::EVENT_TYPE.into())], broken)
        }
        Enrolled::EVENT_TYPE => {
            let Enrolled { course, student } = event.decode()?;
            (both(course, student), rules.enrol(course, student))
        }
        Left::EVENT_TYPE => {
            let Left { course, student } = event.decode()?;
            (both(course, student), rules.leave(course, student))
        }
        Rated::EVENT_TYPE => {
            let rated: Rated = event.decode()?;
            (both(rated.course, rated.student), rules.rate(&rated))
        }
        CarriedOut::EVENT_TYPE => {
            let CarriedOut { course, key } = event.decode()?;
            (vec![("course", course.to_string())], rules.carry_out(&key))
        }
        _ => {
            let Viewed { course, student } = event.decode()?;
            (both(course, student), None)
        }
    })
}

/// Compares the counts of a store with those of its events.
async fn find_wrong_count(store: &dyn EventStore, counts: Counts) -> Result<Option<String>, HarnessError> {
    let boundaries = store.boundaries().ok_or("the store has no boundaries")?;
    let mut differing = Vec::new();
    for ((tenant_id, tag, event_type), wanted) in counts {
        let items = [[tag.clone()].into()].into();
        let boundary = Boundary { tenant_id, event_types: [event_type.clone()].into(), items };
        let counted = boundaries.count_tagged(&boundary).await?.counts;
        if counted != [wanted] {
            differing.push(format!("{} of {event_type}: counted {counted:?}, stored {wanted}", tag.as_str()));
        }
    }
    Ok(differing.first().map(|first| format!("{} counts differ from the events: {first}", differing.len())))
}
