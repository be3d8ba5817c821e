//! What the macros say about handlers and projections.

use std::{fmt, marker::PhantomData, time::Duration};

use crate::{
    domain::event::{EventDescriptor, EventFilter, Source},
    port::{
        BoxFuture, Delivery, HandlerError, HandlerOptions, Requirements, TransactionSlot, activity::DEFAULT_TIMEOUT,
    },
};

/// How a handler is called: the delivery is shared, the transaction exclusive.
#[doc(hidden)]
pub(crate) type HandlerCall = for<'d> fn(&'d Delivery, TransactionSlot<'d>) -> BoxFuture<'d, Result<(), HandlerError>>;

/// An annotated function; made by `#[handler]` on the type of the function's name.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "put `#[handler]` on an `async fn`; its name then is a type too"
)]
pub trait Handler: 'static {
    /// What the annotation says.
    fn definition() -> HandlerDefinition;
}

/// What the annotation of a handler says.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HandlerDefinition {
    /// Its durable name.
    pub name: &'static str,
    /// Its consumer group; the bus's own when `None`.
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
    #[must_use]
    pub const fn new(
        name: &'static str,
        events: EventFilter,
        source: Source,
        requires: fn(&mut Requirements),
        call: HandlerCall,
    ) -> Self {
        Self { name, group: None, options: HandlerOptions::new(None, None, None), events, source, requires, call }
    }

    /// What its parameters demand.
    pub(crate) fn requirements(&self) -> Requirements {
        let mut requirements = Requirements::default();
        (self.requires)(&mut requirements);
        requirements
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn in_group(mut self, group: &'static str) -> Self {
        self.group = Some(group);
        self
    }

    #[doc(hidden)]
    #[must_use]
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
    /// What the annotation and the methods say.
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

    /// Handles one event; called when the methods take `&mut self`.
    ///
    /// # Errors
    /// The method's own error, or that the event could not be decoded.
    #[doc(hidden)]
    fn project_mut<'d>(&'d mut self, delivery: &'d Delivery) -> BoxFuture<'d, Result<(), HandlerError>> {
        self.project(delivery, None)
    }
}

/// How a projection keeps its rows; follows from the signatures of its methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProjectionKind {
    /// `&mut self`: state in memory, rebuilt from zero at start.
    InMemory,
    /// A transaction parameter: rows and checkpoint in one transaction.
    Transactional,
    /// Neither: rows somewhere else, with a checkpoint of its own; an event may be handled again after a crash.
    AtLeastOnce,
}

/// What the annotation and the methods of a projection say.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ProjectionDefinition {
    /// Its durable name.
    pub name: &'static str,
    /// How it keeps its rows.
    pub kind: ProjectionKind,
    /// The events its methods take.
    pub events: EventFilter,
    /// Where the `impl` block stands.
    pub source: Source,
    /// Which version of it, from 1: a rebuild that was interrupted goes on only in the same version.
    pub version: u32,
    /// The tables that hold its rows and nothing else, if it is said which: what a rebuild replaces.
    pub tables: &'static [&'static str],
    /// The column of each table that holds the id of the aggregate a row belongs to, if it is said which.
    pub key: Option<&'static str>,
    /// How long a method may take that writes rows; 60 s if `None`. What folds state in memory has no limit: it cannot be
    /// ended in the middle.
    pub timeout: Option<Duration>,
    pub(crate) requires: fn(&mut Requirements),
}

impl ProjectionDefinition {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        name: &'static str,
        kind: ProjectionKind,
        events: EventFilter,
        source: Source,
        requires: fn(&mut Requirements),
    ) -> Self {
        Self { name, kind, events, source, version: 1, tables: &[], key: None, timeout: None, requires }
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn with_tables(mut self, tables: &'static [&'static str], key: Option<&'static str>) -> Self {
        self.tables = tables;
        self.key = key;
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn with_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout = Some(Duration::from_millis(timeout_ms));
        self
    }

    #[doc(hidden)]
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// How long one of its methods may take; `None` for those that cannot be ended in the middle.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self.kind {
            ProjectionKind::InMemory => None,
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => {
                Some(self.timeout.unwrap_or(DEFAULT_TIMEOUT))
            }
        }
    }

    /// What its parameters demand.
    pub(crate) fn requirements(&self) -> Requirements {
        let mut requirements = Requirements::default();
        (self.requires)(&mut requirements);
        requirements
    }
}

/// An event type, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventRegistration(pub EventDescriptor);

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
    /// Whether it stands in a crate that is compiled as a test.
    pub is_test: bool,
}

/// A handler, registered at link time.
#[doc(hidden)]
#[derive(Debug)]
pub struct HandlerRegistration(pub fn() -> HandlerDefinition);

inventory::collect!(AggregateRegistration);
inventory::collect!(EventRegistration);
inventory::collect!(HandlerRegistration);

/// Finds out whether a projection has a default, by the order in which methods are looked up: the impl for `Probe<P>`
/// comes before the one for `&Probe<P>`, if its bound holds.
#[doc(hidden)]
pub struct Probe<P>(PhantomData<P>);

impl<P> fmt::Debug for Probe<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl<P> Probe<P> {
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P> Default for Probe<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[doc(hidden)]
pub trait WithDefault<P> {
    fn factory(&self) -> Option<fn() -> P>;
}

impl<P: Default> WithDefault<P> for Probe<P> {
    fn factory(&self) -> Option<fn() -> P> {
        Some(P::default)
    }
}

#[doc(hidden)]
pub trait WithoutDefault<P> {
    fn factory(&self) -> Option<fn() -> P>;
}

impl<P> WithoutDefault<P> for &Probe<P> {
    fn factory(&self) -> Option<fn() -> P> {
        None
    }
}
