//! Definitions of handlers and projections, written by the macros and registered at link time.

use std::time::Duration;

use super::aggregate_state::MakeState;
#[cfg(feature = "catalog")]
use crate::domain::probe::EventProbe;
use crate::{
    delivery::activity::DEFAULT_TIMEOUT,
    domain::{
        event::{EventDescriptor, EventFilter, Source},
        record::DomainEvent,
    },
    port::{
        BoxFuture,
        delivery::{Delivery, HandlerError},
        state::Requirements,
        subscriber::HandlerOptions,
        transaction::TransactionSlot,
        visited_event::VisitedFeedEvent,
    },
};

/// The generated function that calls a handler: the delivery is shared, the transaction exclusive.
#[doc(hidden)]
pub(crate) type HandlerCall = for<'d> fn(&'d Delivery, TransactionSlot<'d>) -> BoxFuture<'d, Result<(), HandlerError>>;

/// An annotated function; made by `#[handler]` on the type of the function's name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "put `#[handler]` on an `async fn`; its name then is a type too"
)]
pub trait Handler: 'static {
    /// Returns the name, options and events of the annotation.
    fn definition() -> HandlerDefinition;
}

/// Name, options and events of a handler, from its annotation and signature.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[must_use]
pub struct HandlerDefinition {
    /// Its durable name.
    pub name: &'static str,
    /// Its group. If `None`: a group of its own on the store of an app, the default group of a bus.
    pub group: Option<&'static str>,
    /// Its options.
    pub options: HandlerOptions,
    /// The events it handles.
    pub events: EventFilter,
    /// Where the function stands.
    pub source: Source,
    pub(crate) requires: fn(&mut Requirements),
    pub(crate) call: HandlerCall,
}

impl HandlerDefinition {
    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        events: EventFilter,
        source: Source,
        requires: fn(&mut Requirements),
        call: HandlerCall,
    ) -> Self {
        Self { name, group: None, options: HandlerOptions::NONE, events, source, requires, call }
    }

    /// Returns its name and source, by which a second registration of it is found.
    pub(crate) const fn place(&self) -> (&'static str, Source) {
        (self.name, self.source)
    }

    /// Returns the states and transactions that its parameters take.
    pub(crate) fn requirements(&self) -> Requirements {
        let mut requirements = Requirements::default();
        (self.requires)(&mut requirements);
        requirements
    }

    #[doc(hidden)]
    pub const fn in_group(mut self, group: &'static str) -> Self {
        self.group = Some(group);
        self
    }

    #[doc(hidden)]
    pub const fn with_options(mut self, options: HandlerOptions) -> Self {
        self.options = options;
        self
    }
}

/// A read model fed by events; made by `#[projection]` on an `impl` block.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projection",
    label = "not a projection",
    note = "put `#[projection(name = \"..\")]` on an `impl {Self}` whose methods take the events"
)]
pub trait Projection: Sized + Send + Sync + 'static {
    /// Returns the name, kind and events, from the annotation and the methods.
    fn definition() -> ProjectionDefinition;

    /// Handles one event; called when the methods take `&self`.
    ///
    /// # Errors
    /// The method's own error, or that the event could not be decoded.
    #[doc(hidden)]
    fn project<'d>(
        &'d self,
        delivery: &'d Delivery,
        transaction: TransactionSlot<'d>,
    ) -> BoxFuture<'d, Result<(), HandlerError>> {
        let _ = (delivery, transaction);
        Box::pin(async { Err(HandlerError::permanent("the projection's methods take `&mut self`")) })
    }

    /// Handles consecutive events that all go to one batch method: see [`ProjectionDefinition::batch_method`].
    ///
    /// # Errors
    /// The method's own error, or that an event could not be decoded; which of the events is to blame is not known.
    #[doc(hidden)]
    fn project_batch<'d>(
        &'d self,
        deliveries: &'d [Delivery],
        transaction: TransactionSlot<'d>,
    ) -> BoxFuture<'d, Result<(), HandlerError>> {
        let _ = (deliveries, transaction);
        Box::pin(async { Err(HandlerError::permanent("the projection's methods take one event at a time")) })
    }

    /// Handles one event; called when the methods take `&mut self`.
    ///
    /// # Errors
    /// The method's own error, or that the event could not be decoded.
    #[doc(hidden)]
    fn project_mut<'d>(&'d mut self, delivery: &'d Delivery) -> BoxFuture<'d, Result<(), HandlerError>> {
        self.project(delivery, None)
    }

    /// Returns the function that handles one event as [`project_mut`](Self::project_mut) does, from the parts that a
    /// store visits; `None` if a method takes more, or awaits.
    #[doc(hidden)]
    fn visited_fold() -> Option<VisitedFold<Self>> {
        None
    }
}

/// Folds an event, as a store visits it, into a projection in memory.
#[doc(hidden)]
pub type VisitedFold<P> = fn(&mut P, VisitedFeedEvent<'_>) -> Result<(), HandlerError>;

/// Where a projection keeps its rows; follows from the signatures of its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProjectionKind {
    /// `&mut self`: state in memory, rebuilt from zero at start.
    InMemory,
    /// A transaction parameter: rows and checkpoint in one transaction.
    Transactional,
    /// Neither: rows elsewhere, with a checkpoint of its own; an event may be handled again after a crash.
    AtLeastOnce,
}

/// Name, kind and events of a projection, from its annotation and methods.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[must_use]
pub struct ProjectionDefinition {
    /// Its durable name.
    pub name: &'static str,
    /// Where it keeps its rows.
    pub kind: ProjectionKind,
    /// The events its methods take.
    pub events: EventFilter,
    /// Where the `impl` block stands.
    pub source: Source,
    /// The version of its methods, from 1: an interrupted rebuild goes on only in the same version, and an app warns of rows
    /// of a former one.
    pub version: u32,
    /// The tables that hold only its rows, if the annotation names them: a rebuild replaces these.
    pub tables: &'static [&'static str],
    /// The column of each table that holds the id of the aggregate a row belongs to, if the annotation names it.
    pub key: Option<&'static str>,
    /// The SQL that creates the tables, if the annotation has it: each start of an app runs it.
    pub set_up: Option<&'static str>,
    /// Time limit of a method that writes rows; 60 s if `None`. A fold in memory has none: it cannot be ended half-way.
    pub timeout: Option<Duration>,
    /// The events of each method that takes batches.
    pub(crate) batches: &'static [EventFilter],
    pub(crate) requires: fn(&mut Requirements),
}

impl ProjectionDefinition {
    #[doc(hidden)]
    pub const fn new(
        name: &'static str,
        kind: ProjectionKind,
        events: EventFilter,
        source: Source,
        requires: fn(&mut Requirements),
    ) -> Self {
        let (version, tables, key, set_up, timeout, batches): (_, &[_], _, _, _, &[_]) =
            (1, &[], None, None, None, &[]);
        Self { name, kind, events, source, version, tables, key, set_up, timeout, batches, requires }
    }

    #[doc(hidden)]
    pub const fn with_tables(mut self, tables: &'static [&'static str], key: Option<&'static str>) -> Self {
        self.tables = tables;
        self.key = key;
        self
    }

    #[doc(hidden)]
    pub const fn with_set_up(mut self, set_up: &'static str) -> Self {
        self.set_up = Some(set_up);
        self
    }

    #[doc(hidden)]
    pub const fn with_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout = Some(Duration::from_millis(timeout_ms));
        self
    }

    #[doc(hidden)]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    #[doc(hidden)]
    pub const fn with_batches(mut self, batches: &'static [EventFilter]) -> Self {
        self.batches = batches;
        self
    }

    pub(crate) const fn has_batch_methods(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Returns the number of the batch method that takes events of this type; `None` if they are taken one by one.
    pub(crate) fn batch_method(&self, event_type: &str) -> Option<usize> {
        self.batches.iter().position(|events| events.matches(event_type))
    }

    /// Returns the time limit of its methods; `None` for state in memory, as a fold cannot be ended half-way.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self.kind {
            ProjectionKind::InMemory => None,
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => {
                Some(self.timeout.unwrap_or(DEFAULT_TIMEOUT))
            }
        }
    }

    /// Returns its name and source, by which a second registration of it is found.
    pub(crate) const fn place(&self) -> (&'static str, Source) {
        (self.name, self.source)
    }

    /// Returns the states and transactions that its parameters take.
    pub(crate) fn requirements(&self) -> Requirements {
        let mut requirements = Requirements::default();
        (self.requires)(&mut requirements);
        requirements
    }
}

/// An event type, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventRegistration {
    pub(crate) descriptor: EventDescriptor,
    #[cfg(feature = "catalog")]
    pub(crate) probe: EventProbe,
}

impl EventRegistration {
    /// Describes `E`.
    #[must_use]
    pub const fn of<E: DomainEvent>() -> Self {
        Self {
            descriptor: E::DESCRIPTOR,
            #[cfg(feature = "catalog")]
            probe: EventProbe::of::<E>(),
        }
    }
}

/// An aggregate, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct AggregateRegistration {
    /// The durable name of its type.
    pub aggregate_type: &'static str,
    /// The path of the struct.
    pub rust_type: &'static str,
    /// Where it stands.
    pub source: Source,
    /// Set if it is a further fold of the streams of another aggregate.
    pub is_fold: bool,
    /// The wire names of events that it no longer knows.
    pub retired: &'static [&'static str],
    /// Makes the state of a new aggregate, for tools.
    pub state: fn() -> MakeState,
    /// Set if it stands in a crate that is compiled as a test.
    pub is_test: bool,
}

impl AggregateRegistration {
    /// Returns the events that aggregates have retired: the type of each aggregate, and the wire name. Leaves out the
    /// events that a fold ignores: they may be events of the aggregate.
    pub(crate) fn all_retired() -> impl Iterator<Item = (&'static str, &'static str)> {
        let aggregates = inventory::iter::<Self>().filter(|aggregate| !aggregate.is_fold);
        aggregates.flat_map(|aggregate| aggregate.retired.iter().map(|&name| (aggregate.aggregate_type, name)))
    }
}

/// A handler, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct HandlerRegistration(pub fn() -> HandlerDefinition);

inventory::collect!(AggregateRegistration);
inventory::collect!(EventRegistration);
inventory::collect!(HandlerRegistration);
