//! Tests of the commands of an aggregate: given its events, when a command is decided, then these events, or an error.
//!
//! Invariant: the state is folded by the aggregate's own `Apply`, of events as a load reads them.

use super::decided::{Decided, Decides, collect, to_loaded};
use crate::domain::{
    aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
    stream::{AggregateId, Version},
};

/// Begins the test of a command: the aggregate has these events.
///
/// The events are one event, or an array or a tuple of them, as in [`AggregateRoot::record`]; `()` is none. The state
/// is as after a load: it lacks what a save does not keep, such as a field that serde skips. The test needs neither
/// store nor runtime.
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
///
/// # Panics
/// If an event cannot be saved.
#[track_caller]
pub fn given<A: Aggregate + Apply>(events: impl IntoEvents<A::Event>) -> Given<A> {
    Given { id: AggregateId::new().into(), history: to_loaded(&collect::<A::Event>(events)) }
}

/// An aggregate with its events, see [`given`].
#[derive(derive_more::Debug)]
pub struct Given<A: Aggregate + Apply> {
    id: A::Id,
    history: Vec<A::Event>,
}

impl<A: Aggregate + Apply> Given<A> {
    /// Decides a command by a method of the state that returns the events to record, as for
    /// [`AggregateRepository::update`](crate::AggregateRepository::update).
    pub fn when<T: IntoEvents<A::Event>, X>(self, decide: impl FnOnce(&A) -> Result<T, X>) -> Decided<Self, X> {
        let outcome = decide(&self.state()).map(collect);
        Decided::new(self, outcome)
    }

    /// Decides a command by a method that takes it as an argument, as for
    /// [`AggregateRepository::update_with`](crate::AggregateRepository::update_with).
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{Never, prelude::*, testkit::given};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Order)]
    /// # struct Shipped { parcel: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Shipped))]
    /// # struct Order;
    /// # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) {} }
    /// # struct Ship { parcel: String }
    /// # impl Order {
    /// #     fn ship(&self, command: Ship) -> Result<Shipped, Never> { Ok(Shipped { parcel: command.parcel }) }
    /// # }
    /// given::<Order>(())
    ///     .when_with(Ship { parcel: "T-1".into() }, Order::ship)
    ///     .then(Shipped { parcel: "T-1".into() });
    /// ```
    pub fn when_with<C, T: IntoEvents<A::Event>, X>(
        self,
        command: C,
        decide: impl FnOnce(&A, C) -> Result<T, X>,
    ) -> Decided<Self, X> {
        self.when(|state| decide(state, command))
    }

    /// Runs a command that records its events itself, as for
    /// [`AggregateRepository::update_root`](crate::AggregateRepository::update_root). If the command fails, it records
    /// no events.
    pub fn when_root<T, X>(self, decide: impl FnOnce(&mut AggregateRoot<A>) -> Result<T, X>) -> Decided<Self, X> {
        let version = Version::NONE.plus(self.history.len());
        let mut root = AggregateRoot::<A>::new(self.id.clone()).with_state(self.state(), version);
        let outcome = decide(&mut root).map(|_| root.pending().to_vec());
        Decided::new(self, outcome)
    }

    /// Returns the state that is folded from the events.
    pub fn state(&self) -> A {
        let mut state = A::default();
        self.history.iter().for_each(|event| state.apply(event));
        state
    }
}

impl<A: Aggregate + Apply> Decides for Given<A> {
    type Recorded = A::Event;

    fn name(&self) -> &'static str {
        A::AGGREGATE_TYPE
    }

    #[track_caller]
    fn extend(&mut self, recorded: Vec<A::Event>) {
        self.history.extend(to_loaded(&recorded));
    }
}
