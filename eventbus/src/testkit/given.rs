//! Tests of decisions: given events, when a command is decided, then these events, or an error.
//!
//! Invariant: the state is folded by the aggregate's own `Apply`, and events are compared as a save would write them.

use std::fmt::Debug;

use super::event_diff::{EventLines, diff};
use crate::domain::{
    aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
    stream::{AggregateId, Version},
};

/// Begins the test of a decision: the aggregate has these events.
///
/// The events are one event, or an array or a tuple of them, as in [`AggregateRoot::record`]; `()` is none. Neither
/// store nor runtime is needed.
///
/// # Examples
/// ```
/// use eventbus::{prelude::*, testkit::given};
///
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Order)]
/// # struct OrderCreated { customer: String }
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Order)]
/// # struct ParcelShipped { tracking_number: String }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(OrderCreated, ParcelShipped))]
/// # struct Order { parcels: Vec<String> }
/// # impl Apply for Order {
/// #     fn apply(&mut self, event: &OrderEvent) {
/// #         if let OrderEvent::ParcelShipped(shipped) = event { self.parcels.push(shipped.tracking_number.clone()) }
/// #     }
/// # }
/// # #[derive(Debug)]
/// # enum OrderError { AlreadyShipped(String) }
/// # impl Order {
/// #     fn ship(&self, parcel: &str) -> Result<ParcelShipped, OrderError> {
/// #         if self.parcels.iter().any(|shipped| shipped == parcel) {
/// #             return Err(OrderError::AlreadyShipped(parcel.into()));
/// #         }
/// #         Ok(ParcelShipped { tracking_number: parcel.into() })
/// #     }
/// # }
/// given::<Order>(OrderCreated { customer: "ada".into() })
///     .when(|order| order.ship("T-1"))
///     .then(ParcelShipped { tracking_number: "T-1".into() })
///     .when(|order| order.ship("T-1"))
///     .then_error(|error| matches!(error, OrderError::AlreadyShipped(_)));
///
/// let shipped = ParcelShipped { tracking_number: "T-1".into() };
/// given::<Order>((OrderCreated { customer: "ada".into() }, shipped)) // events of two types: a tuple
///     .when(|order| order.ship("T-2"))
///     .then([ParcelShipped { tracking_number: "T-2".into() }]);
/// ```
pub fn given<A: Aggregate + Apply>(events: impl IntoEvents<A::Event>) -> Given<A> {
    Given { id: AggregateId::new().into(), history: collect(events) }
}

fn collect<E>(events: impl IntoEvents<E>) -> Vec<E> {
    let mut collected = Vec::new();
    events.into_events(&mut collected);
    collected
}

/// An aggregate with its events, see [`given`].
#[derive(derive_more::Debug)]
pub struct Given<A: Aggregate + Apply> {
    id: A::Id,
    history: Vec<A::Event>,
}

impl<A: Aggregate + Apply> Given<A> {
    /// Decides a command: a method of the state that returns the events to record, as for
    /// [`AggregateRepository::update`](crate::AggregateRepository::update).
    pub fn when<T: IntoEvents<A::Event>, X>(self, decide: impl FnOnce(&A) -> Result<T, X>) -> Decided<A, X> {
        let outcome = decide(&self.state()).map(collect);
        Decided { given: self, outcome }
    }

    /// Runs a command that records its events itself, as for
    /// [`AggregateRepository::update_with`](crate::AggregateRepository::update_with). If it fails, it has recorded none.
    pub fn when_with<T, X>(self, decide: impl FnOnce(&mut AggregateRoot<A>) -> Result<T, X>) -> Decided<A, X> {
        let version = Version::NONE.plus(self.history.len());
        let mut root = AggregateRoot::<A>::new(self.id.clone()).with_state(self.state(), version);
        let outcome = decide(&mut root).map(|_| root.pending().to_vec());
        Decided { given: self, outcome }
    }

    /// Returns the state that the events make.
    pub fn state(&self) -> A {
        let mut state = A::default();
        self.history.iter().for_each(|event| state.apply(event));
        state
    }
}

/// A decided command, whose outcome is yet to be compared.
#[derive(derive_more::Debug)]
#[must_use = "the outcome is compared by `then`, `then_nothing` or `then_error`"]
pub struct Decided<A: Aggregate + Apply, X> {
    given: Given<A>,
    outcome: Result<Vec<A::Event>, X>,
}

impl<A: Aggregate + Apply, X: Debug> Decided<A, X> {
    /// Expects these events, in this order, and goes on with an aggregate that has them.
    ///
    /// # Panics
    /// If the command was refused, or recorded other events, with the differences, field by field:
    ///
    /// ```text
    /// `Order` recorded other events than expected (- expected, + recorded, > first difference):
    ///     ParcelShipped
    ///       carrier: "DHL"
    /// > -   tracking_number: "T-1"
    ///   +   tracking_number: "T-2"
    /// ```
    #[track_caller]
    pub fn then(self, expected: impl IntoEvents<A::Event>) -> Given<A> {
        let expected = EventLines::of_all(&collect(expected));
        let recorded = match self.outcome {
            Ok(recorded) => recorded,
            Err(error) => match diff(&expected, &[]) {
                Some(lines) => panic!("`{}` refused with {error:?}, expected events:\n{lines}", A::AGGREGATE_TYPE),
                None => panic!("`{}` refused with {error:?}, expected it to accept", A::AGGREGATE_TYPE),
            },
        };
        if let Some(lines) = diff(&expected, &EventLines::of_all(&recorded)) {
            panic!(
                "`{}` recorded other events than expected (- expected, + recorded, > first difference):\n{lines}",
                A::AGGREGATE_TYPE
            );
        }
        let mut given = self.given;
        given.history.extend(recorded);
        given
    }

    /// Expects that the command was accepted and recorded no event.
    ///
    /// # Panics
    /// As [`then`](Self::then).
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then(())
    }

    /// Expects that the command was refused with an error for which `is_expected` returns `true`, and goes on with the
    /// aggregate as it was.
    ///
    /// # Panics
    /// If the command was accepted, with the events that it recorded; if the error is a different one, with the error.
    #[track_caller]
    pub fn then_error(self, is_expected: impl FnOnce(&X) -> bool) -> Given<A> {
        match self.outcome {
            Err(error) if is_expected(&error) => self.given,
            Err(error) => panic!("`{}` refused with another error than expected: {error:?}", A::AGGREGATE_TYPE),
            Ok(recorded) => match diff(&[], &EventLines::of_all(&recorded)) {
                Some(lines) => panic!("`{}` accepted, expected an error; it recorded:\n{lines}", A::AGGREGATE_TYPE),
                None => panic!("`{}` accepted and recorded nothing, expected an error", A::AGGREGATE_TYPE),
            },
        }
    }
}
