//! The mistakes that keep an app from starting, all in one report.

use std::fmt;

use crate::{
    domain::{
        error::{BoxError, ErrorChain},
        event::{EventDescriptor, Source},
        name::Name,
    },
    port::ConnectError,
    runtime::relay::RelayError,
};

/// The mistakes that keep an app from starting.
///
/// `Display` and `Debug` both print the whole list.
#[derive(derive_more::Debug)]
#[debug("{self}")]
pub struct StartError {
    mistakes: Vec<StartMistake>,
}

impl StartError {
    /// Reports `mistakes`; `Ok` if there are none.
    pub(crate) fn unless_empty(mistakes: Vec<StartMistake>) -> Result<(), Self> {
        if mistakes.is_empty() { Ok(()) } else { Err(Self { mistakes }) }
    }

    /// The mistakes: events, then names used twice, then missing states, stores and instances.
    #[must_use]
    pub fn mistakes(&self) -> &[StartMistake] {
        &self.mistakes
    }
}

impl From<StartMistake> for StartError {
    fn from(mistake: StartMistake) -> Self {
        Self { mistakes: vec![mistake] }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [mistake] = &*self.mistakes {
            return write!(f, "the app cannot start: {}", ErrorChain(mistake));
        }
        write!(f, "the app cannot start for {} reasons:", self.mistakes.len())?;
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  - {}", ErrorChain(mistake)))
    }
}

impl std::error::Error for StartError {}

/// One mistake that keeps an app from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartMistake {
    /// `discover()` found no handlers and no projections.
    #[error(
        "discover() found no handlers and no projections: a crate that the binary never names is not linked; \
         add `use my_crate as _;` to main.rs"
    )]
    NothingDiscovered,
    /// A crate that [`expect_crates`](crate::app::AppBuilder::expect_crates) names has no linked event, aggregate,
    /// handler or projection.
    #[error(
        "crate `{name}` has no linked event, aggregate, handler or projection (linked crates: {}): a crate that the \
         binary never names is not linked; add `use {name} as _;` to main.rs, or do not expect a crate that has none",
        if linked.is_empty() { "none".into() } else { linked.join(", ") }
    )]
    CrateNotLinked {
        /// The crate.
        name: String,
        /// The crates that are linked, sorted.
        linked: Vec<&'static str>,
    },
    /// `discover_groups` names a group without handlers and projections.
    #[error("no handler belongs to group `{group}` (groups: {})", known.join(", "))]
    UnknownGroup {
        /// The requested group.
        group: String,
        /// The groups there are, sorted.
        known: Vec<String>,
    },
    /// The app has no handler or projection of the name that [`AppBuilder::replay`](crate::app::AppBuilder::replay),
    /// [`rebuild`](crate::app::AppBuilder::rebuild) or a [`StandaloneApp`](crate::app::StandaloneApp) was given.
    #[error("the app has no {what} `{name}` (it has: {})", if known.is_empty() { "none".into() } else { known.join(", ") })]
    UnknownName {
        /// `handler` or `projection`.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that the app has, sorted.
        known: Vec<&'static str>,
    },
    /// Two event types have one wire name. Without `discover()` the check covers those that the handlers and projections
    /// of the app take.
    #[error(
        "two events have the wire type `{}`: {} ({}) and {} ({}); keep one of them if they mean \
         the same event, else set `#[event(type = \"..\")]` on one",
        shared_type(first, second), first.rust_type, first.source, second.rust_type, second.source
    )]
    DuplicateEventType {
        /// One of them.
        first: EventDescriptor,
        /// The other.
        second: EventDescriptor,
    },
    /// Two aggregates have one type, so they would read and write each other's streams. The check covers all linked
    /// aggregates, also without `discover()`.
    ///
    /// One binary often holds several tests, each with an `Account` of its own. So if one of the two stands in a crate
    /// that is compiled as a test, the app only logs a warning, unless it discovers and hence runs the handlers of
    /// both. Examples in doc comments are no such crates: mark one of them `standalone_crate`.
    #[error(
        "two aggregates have the type `{aggregate_type}` and would share streams: {first_type} ({first}) and \
         {second_type} ({second}); set `#[aggregate(type = \"..\")]` on one, or `fold_of = ..` if it is a second state \
         of the same streams"
    )]
    DuplicateAggregateType {
        /// The type.
        aggregate_type: &'static str,
        /// The path of one struct.
        first_type: &'static str,
        /// Where it stands.
        first: Source,
        /// The path of the other.
        second_type: &'static str,
        /// Where it stands.
        second: Source,
    },
    /// Two handlers have one name.
    #[error("two handlers named `{name}`: {first} and {second}; set `#[handler(name = \"..\")]` on one")]
    DuplicateHandler {
        /// Their name.
        name: &'static str,
        /// Where one stands.
        first: Source,
        /// Where the other stands.
        second: Source,
    },
    /// A handler consumes a stream that the app was not given.
    #[error(
        "handler `{name}` ({source_place}) consumes the stream `{stream}`: give the builder \
         `.consume(\"{stream}\", bus)` (it has: {})", if known.is_empty() { "none".into() } else { known.join(", ") }
    )]
    UnknownStream {
        /// The handler.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The stream.
        stream: &'static str,
        /// The streams that the app consumes.
        known: Vec<String>,
    },
    /// A handler names no stream, and the app has neither a store nor a bus of its own.
    #[error(
        "handler `{name}` ({source_place}) gets no events, as the app only consumes streams: write \
         `#[handler(stream = \"..\")]` with one of them ({}), or give the builder a store or a bus", known.join(", ")
    )]
    NoStream {
        /// The handler.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The streams that the app consumes.
        known: Vec<String>,
    },
    /// The store keeps no progress of handlers.
    #[error(
        "handler `{name}` ({source_place}) reads the app's store, which keeps no progress of handlers: its \
         `EventStore::handler_progress` returns `None`"
    )]
    ProgressUnsupported {
        /// The handler.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
    },
    /// An app with a store was given a bus that it neither publishes on nor consumes.
    #[error(
        "the app has a store and `.without_relay()`, so it does nothing with the bus of `.bus(..)`: handlers read the \
         store; leave one of the two out, or consume a stream by `.consume(\"name\", bus)` and `#[handler(stream = \"name\")]`"
    )]
    BusWithoutUse,
    /// Two projections have one name.
    #[error("two projections named `{name}`: {first} and {second}; set another `name` on one")]
    DuplicateProjection {
        /// Their name.
        name: &'static str,
        /// Where one stands.
        first: Source,
        /// Where the other stands.
        second: Source,
    },
    /// A handler or projection takes a `State<T>` that the builder was not given.
    #[error("`{name}` ({source_place}) takes `State<{state}>`, but the builder has no `.state(..)` of that type")]
    MissingState {
        /// The handler or projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The type.
        state: &'static str,
    },
    /// A handler or projection takes the transaction of a different store.
    #[error(
        "`{name}` ({source_place}) takes the connection of another store (`&mut` of a `{}`), but {}",
        short_type_name(wanted),
        match offered {
            Some(offered) => format!("this app's store lends a `{}`: take that one, or give the builder the other store", short_type_name(offered)),
            None => "this app's store lends none: give the builder the store that does, with `.store(..)`".to_owned(),
        }
    )]
    TransactionMismatch {
        /// The handler or projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The transaction type it takes.
        wanted: &'static str,
        /// The transaction type of the store, if it has one.
        offered: Option<&'static str>,
    },
    /// A handler takes a `Repository<A>`, and the app has no store to save to, or one that cannot commit the saves of a
    /// handler together.
    #[error(
        "`{name}` ({source_place}) takes `Repository<{}>`, but {}",
        short_type_name(aggregate),
        match store {
            Some(store) => format!("{store} appends to one stream at a time only: take `State<AggregateRepository<..>>`, whose saves may happen again"),
            None => "this app only consumes: its builder has a bus and no `.store(..)`".to_owned(),
        }
    )]
    RepositoryWithoutStore {
        /// The handler.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The aggregate.
        aggregate: &'static str,
        /// The store, if there is one.
        store: Option<String>,
    },
    /// A projection takes a `Repository<A>`: a rebuild would save once more.
    #[error(
        "projection `{name}` ({source_place}) takes `Repository<{}>`: save in a `#[handler]`, as a rebuild of a projection runs its methods again",
        short_type_name(aggregate)
    )]
    ProjectionSaves {
        /// The projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The aggregate.
        aggregate: &'static str,
    },
    /// A projection has no default, and the builder has no instance.
    #[error("projection `{name}` ({source_place}) has no `Default`; give the builder one: `.projection(..)`")]
    ProjectionWithoutInstance {
        /// The projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
    },
    /// A projection has no feed to read, since the app only consumes from a bus.
    #[error("projection `{name}` ({source_place}) reads a store's feed, but the builder has a bus and no `.store(..)`")]
    ProjectionWithoutStore {
        /// The projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
    },
    /// The bus refuses its configuration.
    #[error("the event bus cannot be used")]
    BusRefused(#[source] ConnectError),
    /// The stream carries the events of a different store and none of this one: [`RelayError::OtherStore`]. The app's
    /// handlers would take the events of a different application. An app
    /// [without a relay](crate::app::AppBuilder::without_relay) starts.
    #[error(transparent)]
    OtherStore(RelayError),
    /// The bus keeps no position of a store beside its events ([`EventBus::relay_target`](crate::bus::EventBus::relay_target)),
    /// so that a relay could not tell, after a crash, which events it carries.
    #[error(
        "the app cannot publish the events of its store on `{destination}`, which keeps no position of a store: take a bus \
         that does, or say `.without_relay()` and consume it by `.consume(..)`"
    )]
    BusWithoutPosition {
        /// The bus.
        destination: Name,
    },
    /// The `set_up` of a projection failed: its tables are as they were, unless its text has a `COMMIT`.
    #[error("the set-up of the tables of projection `{name}` ({source_place}) failed")]
    SetUp {
        /// The projection.
        name: &'static str,
        /// Where it stands.
        source_place: Source,
        /// The store's error.
        source: BoxError,
    },
    /// The store could not do its part of the start, for example because its server is away. A later start can succeed.
    #[error("the store is unavailable for {what}")]
    Unavailable {
        /// The part of the app that needs the store.
        what: String,
        /// The store's error.
        source: BoxError,
    },
}

/// Returns the name of a type without its path.
pub(crate) fn short_type_name(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

/// Returns a wire name that both events have, or had before.
fn shared_type(first: &EventDescriptor, second: &EventDescriptor) -> &'static str {
    second.event_types().find(|name| first.is_named(name)).unwrap_or(second.event_type)
}
