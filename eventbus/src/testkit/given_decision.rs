//! Tests of decisions on the events of several aggregates: given events, when a command is decided, then these events,
//! or an error.
//!
//! Invariant: the state is folded by the decision's own `Apply`, of events of the types that the decision lists, as a load
//! reads them.

use super::decided::{Decided, Decides, collect, to_loaded};
use crate::{
    domain::{
        aggregate::{Apply, IntoEvents},
        decision::{DecidedEvent, Decision},
        record::{EncodeEvent as _, EventSet as _},
        stream::{AggregateId, StreamId, Version},
    },
    runtime::start::short_type_name,
};

/// Begins the test of a decision: it has read these events.
///
/// The events are one event that the decision lists, its enum, or an array, a `Vec` or a tuple of them; `()` is none.
/// The decision gets them as a load reads them. It decides events with tags, of any aggregate. The test needs neither
/// store nor runtime.
///
/// The test compares no tags: the decision gets every given event, and then each decided event of a type that it lists.
/// The call of [`about`](crate::repository::Deciding::about) chooses the tags that a decision reads, not the decision:
/// test that on a store, by a [`TestApp`](super::TestApp) and [`App::decision`](crate::App::decision).
///
/// # Examples
/// ```
/// use eventbus::{prelude::*, testkit::given_decision};
///
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Course", tags(course))]
/// # struct CourseDefined { course: String, seats: usize }
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Enrolment", tags(course, student))]
/// # struct Enrolled { course: String, student: String }
/// # #[derive(Debug, Default, Decision)]
/// # #[decision(events(CourseDefined, Enrolled))]
/// # struct Seats { seats: usize, taken: usize }
/// # impl Apply for Seats {
/// #     fn apply(&mut self, event: &SeatsEvent) {
/// #         match event {
/// #             SeatsEvent::CourseDefined(defined) => self.seats = defined.seats,
/// #             SeatsEvent::Enrolled(_) => self.taken += 1,
/// #         }
/// #     }
/// # }
/// # #[derive(Debug)]
/// # enum SeatsError { Full }
/// # impl Seats {
/// #     fn enrol(&self, course: &str, student: &str) -> Result<Enrolled, SeatsError> {
/// #         if self.taken >= self.seats { return Err(SeatsError::Full); }
/// #         Ok(Enrolled { course: course.into(), student: student.into() })
/// #     }
/// # }
/// let enrolled = |student: &str| Enrolled { course: "rust".into(), student: student.into() };
/// given_decision::<Seats>((CourseDefined { course: "rust".into(), seats: 2 }, enrolled("ada")))
///     .when(|seats| seats.enrol("rust", "bob"))
///     .then(enrolled("bob"))
///     .when(|seats| seats.enrol("rust", "cleo"))
///     .then_error(|error| matches!(error, SeatsError::Full));
/// ```
///
/// # Panics
/// If an event cannot be saved.
#[track_caller]
pub fn given_decision<D: Decision + Apply>(events: impl IntoEvents<D::Event>) -> GivenDecision<D> {
    GivenDecision { read: to_loaded(&collect::<D::Event>(events)) }
}

/// A decision with the events that it has read, see [`given_decision`].
#[derive(derive_more::Debug)]
pub struct GivenDecision<D: Decision + Apply> {
    read: Vec<D::Event>,
}

impl<D: Decision + Apply> GivenDecision<D> {
    /// Decides by a method of the state that returns the events to append, as for
    /// [`Deciding::decide`](crate::repository::Deciding::decide).
    pub fn when<T: IntoEvents<DecidedEvent>, X>(self, decide: impl FnOnce(&D) -> Result<T, X>) -> Decided<Self, X> {
        let outcome = decide(&self.state()).map(collect);
        Decided::new(self, outcome)
    }

    /// Decides a command by a method that takes it as an argument, as for
    /// [`Deciding::decide_with`](crate::repository::Deciding::decide_with) and
    /// [`Given::when_with`](super::Given::when_with).
    pub fn when_with<C, T: IntoEvents<DecidedEvent>, X>(
        self,
        command: C,
        decide: impl FnOnce(&D, C) -> Result<T, X>,
    ) -> Decided<Self, X> {
        self.when(|state| decide(state, command))
    }

    /// Returns the state that is folded from the events.
    pub fn state(&self) -> D {
        let mut state = D::default();
        self.read.iter().for_each(|event| state.apply(event));
        state
    }
}

impl<D: Decision + Apply> Decides for GivenDecision<D> {
    type Recorded = DecidedEvent;

    fn name(&self) -> &'static str {
        short_type_name(std::any::type_name::<D>())
    }

    #[track_caller]
    fn extend(&mut self, recorded: Vec<DecidedEvent>) {
        for decided in recorded {
            let Ok(event) = decided.encode() else { continue }; // no store takes it: the comparison has failed
            let stream = StreamId::new(decided.aggregate_type().clone(), AggregateId::new());
            let record = event.recorded_as(stream, Version::FIRST, None);
            if !D::Event::EVENTS.matches(record.event_type()) {
                continue;
            }
            match D::Event::decode(&record) {
                Ok(event) => self.read.push(event),
                Err(error) => panic!("an event of the test cannot be read by `{}`: {error}", self.name()),
            }
        }
    }
}
