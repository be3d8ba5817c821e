//! Decisions about tags: enrolments in courses.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use async_trait::async_trait;
use eventbus::Result;
use uuid::Uuid;

use super::QUICK_DIVISOR;
use crate::{
    bench::{Bench, Round, expect},
    course::{COURSES_PER_STUDENT, Enrolled, SEATS},
    worker::WorkerArgs,
};

const DECISIONS_PER_ROUND: usize = 8_000;
/// A lone caller waits for each commit.
const LONE_DECISIONS_PER_ROUND: usize = 4_000;

/// Courses and students in a database.
pub trait Courses: Clone + Send + Sync + 'static {
    /// Enrols a student, if the course has a seat left and the student is not in too many courses.
    fn enrol(&self, course: Uuid, student: Uuid) -> impl Future<Output = Result<()>> + Send;

    /// Returns all stored enrolments.
    fn enrolments(&self) -> impl Future<Output = Result<Vec<Enrolled>>> + Send;
}

/// Callers that fill one course after the other: each its own, or all together, which makes these courses hot.
pub struct Decide<C: Courses> {
    courses: C,
    is_hot: bool,
    callers: usize,
    decisions_per_caller: usize,
    accepted: u64,
}

impl<C: Courses> Decide<C> {
    pub async fn open(courses: C, is_hot: bool, args: &WorkerArgs) -> Result<Self> {
        let decisions = if args.callers == 1 { LONE_DECISIONS_PER_ROUND } else { DECISIONS_PER_ROUND };
        let decisions = if args.quick { decisions / QUICK_DIVISOR } else { decisions };
        let decisions_per_caller = decisions.div_ceil(args.callers);
        // the server plans the reads for tables that are filled
        let filled = decide(courses.clone(), Arc::default(), LONE_DECISIONS_PER_ROUND / QUICK_DIVISOR).await?;
        Ok(Self { courses, is_hot, callers: args.callers, decisions_per_caller, accepted: filled.operations })
    }
}

#[async_trait]
impl<C: Courses> Bench for Decide<C> {
    async fn run(&mut self) -> Result<Round> {
        let hot = Arc::<CourseIds>::default();
        let callers = (0..self.callers).map(|_| {
            let ids = if self.is_hot { Arc::clone(&hot) } else { Arc::default() };
            decide(self.courses.clone(), ids, self.decisions_per_caller)
        });
        let round = Round::of(callers).await?;
        self.accepted += round.operations;
        Ok(round)
    }

    async fn check(&mut self) -> Result<()> {
        let stored = self.courses.enrolments().await?;
        expect("stored enrolments", &(stored.len() as u64), &self.accepted)?;
        let (mut seats, mut courses) = (HashMap::<_, Vec<u32>>::new(), HashMap::<_, u32>::new());
        for event in stored {
            seats.entry(event.course).or_default().push(event.seat);
            *courses.entry(event.student).or_default() += 1;
        }
        for mut seats in seats.into_values() {
            seats.sort_unstable();
            expect("seats of a course", &seats, &(1..=SEATS).take(seats.len()).collect())?;
        }
        let most = courses.into_values().max().unwrap_or_default();
        expect("the most courses of a student", &most.max(COURSES_PER_STUDENT), &COURSES_PER_STUDENT)
    }
}

/// Decides for ten students in turn, and then for the next ten, so that none is in too many courses.
async fn decide<C: Courses>(courses: C, ids: Arc<CourseIds>, decisions: usize) -> Result<Round> {
    const STUDENTS: u128 = 10;
    let first_student = Uuid::now_v7().as_u128();
    let mut round = Round::default();
    for number in (0..).take(decisions) {
        let group = number / (STUDENTS * u128::from(COURSES_PER_STUDENT));
        let student = Uuid::from_u128(first_student + group * STUDENTS + number % STUDENTS);
        let start = Instant::now();
        courses.enrol(ids.next(), student).await?;
        round.add(start.elapsed());
    }
    Ok(round)
}

/// The courses that one caller fills, or several.
struct CourseIds {
    first: u128,
    given: AtomicU64,
}

impl Default for CourseIds {
    fn default() -> Self {
        Self { first: Uuid::now_v7().as_u128(), given: AtomicU64::new(0) }
    }
}

impl CourseIds {
    /// Returns the course of the next decision; as many decisions have one as it has seats.
    fn next(&self) -> Uuid {
        let course = self.given.fetch_add(1, Relaxed) / u64::from(SEATS);
        Uuid::from_u128(self.first + u128::from(course))
    }
}
