//! Aggregates: state folded from events, and the root that records new ones.

use std::fmt;

use uuid::Uuid;

use super::{
    clock::SharedClock,
    id::AggregateKey,
    metadata::EventId,
    name::Name,
    record::{EncodeEvent, FoldedEvent},
    snapshot_codec::SnapshotCodec,
    stream::{StreamId, Version},
};

/// State that is folded from events: an [`Aggregate`] or a [`Decision`](crate::Decision), whose derive implements it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "not an aggregate, and no decision",
    note = "derive it: `#[derive(Default, Aggregate)]` and `#[aggregate(events(..))]`"
)]
pub trait Fold: Default + Send + Sync + 'static {
    /// The generated enum of its events.
    type Event: FoldedEvent + EncodeEvent + Clone + fmt::Debug;
}

/// State that is folded from the events of one stream; made by `#[derive(Aggregate)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "not an aggregate",
    note = "derive it: `#[derive(Default, Aggregate)]` and `#[aggregate(events(..))]`"
)]
pub trait Aggregate: Fold {
    /// The durable name of the type: the struct's name unless `#[aggregate(type = "..")]` says otherwise.
    const AGGREGATE_TYPE: &'static str;
    /// The wire names of events that its streams may hold but it no longer knows, as in
    /// `#[aggregate(.., retired("OrderViewed"))]`: loading skips them.
    const RETIRED: &'static [&'static str] = &[];
    #[doc(hidden)]
    const SNAPSHOT: Option<SnapshotCodec<Self>> = None;
    /// The type of its ids: [`AggregateId`](crate::AggregateId), or with `#[aggregate(.., typed_id)]` an
    /// [`Id`](crate::Id) of its own.
    type Id: AggregateKey;

    /// The stream of one aggregate of this type, of no tenant.
    fn stream(id: &Self::Id) -> StreamId {
        StreamId::new(Name::from_static(Self::AGGREGATE_TYPE), id.untyped().clone())
    }
}

/// Applies events to the state of an aggregate or a decision.
///
/// Pure: it runs at every load, so it makes no decisions and cannot fail.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how to apply its events",
    label = "`impl Apply` is missing",
    note = "write `impl Apply for {Self} {{ fn apply(&mut self, event: &{Self}Event) {{ match event {{ .. }} }} }}`"
)]
pub trait Apply: Fold {
    /// Applies `event` to the state.
    fn apply(&mut self, event: &Self::Event);
}

/// Marks an event that an aggregate lists; the derive implements it for each listed event.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "aggregate `{Self}` does not list event `{E}`",
    label = "`{E}` says it belongs to this aggregate",
    note = "add `{E}` to `#[aggregate(events(..))]` on `{Self}`, or name another aggregate in `#[event(aggregate = ..)]`"
)]
pub trait Lists<E> {
    /// The name of the aggregate's type, which the event takes over.
    const AGGREGATE_TYPE: &'static str;
}

/// Events to record: one event of the aggregate, its enum, or a tuple, array, `Vec` or `Option` of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be recorded as `{E}`",
    label = "not an event of `{E}`",
    note = "record an event of the aggregate, or a tuple, array, `Vec` or `Option` of them; what can refuse is unwrapped with `?` first",
    note = "in `App::decision` an event is any one with tags"
)]
pub trait IntoEvents<E> {
    /// Adds the events to `out`, in order.
    fn into_events(self, out: &mut Vec<E>);
}

impl<E> IntoEvents<E> for () {
    fn into_events(self, _out: &mut Vec<E>) {}
}

impl<E, T: IntoEvents<E>> IntoEvents<E> for Option<T> {
    fn into_events(self, out: &mut Vec<E>) {
        if let Some(events) = self {
            events.into_events(out);
        }
    }
}

impl<E, T: IntoEvents<E>> IntoEvents<E> for Vec<T> {
    fn into_events(self, out: &mut Vec<E>) {
        for events in self {
            events.into_events(out);
        }
    }
}

impl<E, T: IntoEvents<E>, const N: usize> IntoEvents<E> for [T; N] {
    fn into_events(self, out: &mut Vec<E>) {
        for events in self {
            events.into_events(out);
        }
    }
}

macro_rules! tuple_of_events {
    ($($T:ident)+) => {
        impl<E, $($T: IntoEvents<E>),+> IntoEvents<E> for ($($T,)+) {
            #[allow(non_snake_case, reason = "the parameters are named like their types")]
            fn into_events(self, out: &mut Vec<E>) {
                let ($($T,)+) = self;
                $($T.into_events(out);)+
            }
        }
    };
}

tuple_of_events!(A);
tuple_of_events!(A B);
tuple_of_events!(A B C);
tuple_of_events!(A B C D);
tuple_of_events!(A B C D F);
tuple_of_events!(A B C D F G);
tuple_of_events!(A B C D F G H);
tuple_of_events!(A B C D F G H I);

/// An aggregate with its identity, its version and the events recorded since it was loaded.
///
/// Derefs to the state for reading; the state changes only by [`record`](Self::record). `id`, `version`, `pending`,
/// `record` and `state` shadow members of the state with those names.
///
/// # Examples
/// ```
/// # use eventbus::prelude::*;
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Counter)]
/// # struct Counted { by: u32 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Counted))]
/// # struct Counter { total: u32 }
/// # impl Apply for Counter {
/// #     fn apply(&mut self, event: &CounterEvent) { let CounterEvent::Counted(e) = event; self.total += e.by; }
/// # }
/// let mut counter = AggregateRoot::<Counter>::new(AggregateId::new());
/// counter.record(Counted { by: 2 }).record([Counted { by: 3 }, Counted { by: 4 }]);
/// assert_eq!(counter.total, 9);
/// assert_eq!(counter.pending().len(), 3);
/// ```
#[derive(Clone, derive_more::Debug, derive_more::Deref)]
#[must_use]
pub struct AggregateRoot<A: Aggregate> {
    id: A::Id,
    tenant_id: Option<Uuid>,
    version: Version,
    #[deref]
    state: A,
    pending: Vec<A::Event>,
    /// The ids of the pending events: made when they are recorded, so that a repeated save never appends them twice.
    pending_ids: Vec<EventId>,
    /// Makes the ids.
    clock: SharedClock,
}

impl<A: Aggregate> AggregateRoot<A> {
    /// Begins a new aggregate of no tenant: default state, version 0, no recorded events.
    pub fn new(id: A::Id) -> Self {
        Self {
            id,
            tenant_id: None,
            version: Version::NONE,
            state: A::default(),
            pending: Vec::new(),
            pending_ids: Vec::new(),
            clock: SharedClock::SYSTEM,
        }
    }

    /// Sets the tenant that the aggregate belongs to.
    pub(crate) fn with_tenant_id(self, tenant_id: Option<Uuid>) -> Self {
        Self { tenant_id, ..self }
    }

    /// Makes the ids of its events by this clock.
    pub(crate) fn with_clock(self, clock: SharedClock) -> Self {
        Self { clock, ..self }
    }

    /// Begins with a state that was folded from the events up to `version`.
    pub(crate) fn with_state(self, state: A, version: Version) -> Self {
        Self { state, version, ..self }
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> &A::Id {
        &self.id
    }

    /// The tenant that the aggregate belongs to.
    pub(crate) const fn tenant_id(&self) -> Option<Uuid> {
        self.tenant_id
    }

    /// The number of stored events the state includes; recorded events count only once they are saved.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &A {
        &self.state
    }

    /// The events that are recorded and not saved yet.
    #[must_use]
    pub fn pending(&self) -> &[A::Event] {
        &self.pending
    }

    /// The pending events with their ids.
    pub(crate) fn pending_with_ids(&self) -> impl Iterator<Item = (&A::Event, EventId)> {
        self.pending.iter().zip(self.pending_ids.iter().copied())
    }

    /// Records that all pending events are stored, and the stream is now at `version`.
    pub(crate) fn mark_saved(&mut self, version: Version) {
        self.pending.clear();
        self.pending_ids.clear();
        self.version = version;
    }
}

impl<A: Aggregate + Apply> AggregateRoot<A> {
    /// Records events: applies them at once, so that the next decision sees them, and keeps them for the next save.
    pub fn record(&mut self, events: impl IntoEvents<A::Event>) -> &mut Self {
        let first = self.pending.len();
        events.into_events(&mut self.pending);
        for event in &self.pending[first..] {
            self.state.apply(event);
            self.pending_ids.push(self.clock.new_id().into());
        }
        self
    }

    /// Skips a stored event that the aggregate no longer knows.
    pub(crate) const fn pass(&mut self, version: Version) {
        self.version = version;
    }

    /// Applies a stored event.
    pub(crate) fn replay(&mut self, event: &A::Event, version: Version) {
        self.state.apply(event);
        self.version = version;
    }
}
