//! The catalog: what is linked into a program, for tools.

use std::collections::BTreeMap;

use super::{
    aggregate_state::{AggregateState, MakeState},
    definition::{AggregateRegistration, EventRegistration, HandlerDefinition, ProjectionDefinition},
    projection::ProjectionRegistration,
    subscription::discovered_handlers,
};
use crate::domain::{
    event::{EventDescriptor, Source},
    probe::EventProbe,
};

/// What is linked into a program. It needs no store, no bus and no app.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{catalog::Catalog, prelude::*};
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Account")]
/// struct Deposited { cents: u64, note: Option<String> }
///
/// let catalog = Catalog::linked();
/// let [deposited] = &catalog.events[..] else { panic!("one event") };
/// assert_eq!((deposited.descriptor.event_type, deposited.descriptor.schema_version), ("Deposited", 1));
/// let samples = deposited.samples()?;
/// assert_eq!(samples.shape["cents"], "u64");
/// assert_eq!(samples.shape["note"], "string?");
/// # Ok::<(), eventbus::catalog::NoSamples>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Catalog {
    /// The events, by type and place.
    pub events: Vec<LinkedEvent>,
    /// The aggregates, by type and place.
    pub aggregates: Vec<LinkedAggregate>,
    /// The handlers, by name and place.
    pub handlers: Vec<HandlerDefinition>,
    /// The projections, by name and place.
    pub projections: Vec<ProjectionDefinition>,
}

/// An event that is linked into the program.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LinkedEvent {
    /// Its names, versions and place.
    pub descriptor: EventDescriptor,
    probe: EventProbe,
}

/// An aggregate that is linked into the program.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LinkedAggregate {
    /// Its durable type.
    pub aggregate_type: &'static str,
    /// The path of its struct.
    pub rust_type: &'static str,
    /// Where it is declared.
    pub source: Source,
    /// Set if it is a further state of the streams of a different aggregate, as with `fold_of`.
    pub is_fold: bool,
    /// Its retired event types: stored, and not saved any more.
    pub retired: &'static [&'static str],
    state: MakeState,
}

impl LinkedAggregate {
    /// Returns the state of a new aggregate, to which a tool applies the events of a stream; `None` if the struct does not
    /// implement `Serialize`.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::{catalog::Catalog, prelude::*, *};
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate = Account)]
    /// struct Deposited { cents: u64 }
    ///
    /// #[derive(Debug, Default, Serialize, Aggregate)]
    /// #[aggregate(events(Deposited))]
    /// struct Account { cents: u64 }
    ///
    /// impl Apply for Account {
    ///     fn apply(&mut self, AccountEvent::Deposited(event): &AccountEvent) {
    ///         self.cents += event.cents;
    ///     }
    /// }
    ///
    /// let mut state = Catalog::linked().aggregates[0].state().expect("`Account` implements `Serialize`");
    /// assert_eq!(state.to_json()?, r#"{"cents":0}"#);
    /// let stored = RecordedEvent::from_event(&Deposited { cents: 120 }, AggregateId::new(), Version::FIRST)?;
    /// state.apply(&stored)?;
    /// assert_eq!(state.to_json()?, r#"{"cents":120}"#);
    /// # Ok::<(), eventbus::Error>(())
    /// ```
    #[must_use]
    pub fn state(&self) -> Option<AggregateState> {
        self.state.call()
    }
}

/// Samples of an event, and the shape of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSamples {
    /// Sample payloads, as this program encodes them: one for each variant of each enum with all optional parts, and one
    /// without any.
    pub payloads: Vec<String>,
    /// The kind of each field by its path: `lines[].sku` is a `string`. The kind of an optional one ends with `?`.
    pub shape: BTreeMap<String, String>,
}

/// No sample of an event can be made: its `Deserialize` does not say which fields or values it takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no sample of `{event_type}` can be made: {reason}")]
#[non_exhaustive]
pub struct NoSamples {
    /// The event.
    pub event_type: &'static str,
    /// The field, and the reason.
    pub reason: String,
}

impl LinkedEvent {
    /// Makes samples of the event.
    ///
    /// # Errors
    /// [`NoSamples`] for an event whose samples cannot be made of its `Deserialize` alone, such as one with flattened
    /// fields, an untagged enum or a field that validates unusual values.
    pub fn samples(&self) -> Result<EventSamples, NoSamples> {
        let event_type = self.descriptor.event_type;
        let made = self.probe.samples();
        let made = made.map_err(|error| NoSamples { event_type, reason: error.to_string() })?;
        Ok(EventSamples { payloads: made.payloads, shape: made.shape })
    }
}

impl Catalog {
    /// Lists what is linked into this program. A crate that the binary never names is not linked.
    #[must_use]
    pub fn linked() -> Self {
        let mut events: Vec<_> = inventory::iter::<EventRegistration>()
            .map(|event| LinkedEvent { descriptor: event.descriptor, probe: event.probe })
            .collect();
        let place = |event: &LinkedEvent| {
            let EventDescriptor { event_type, source, rust_type, .. } = event.descriptor;
            (event_type, source, rust_type)
        };
        events.sort_unstable_by_key(place);
        events.dedup_by_key(|event| place(event));
        let mut aggregates: Vec<_> = inventory::iter::<AggregateRegistration>()
            .map(|aggregate| LinkedAggregate {
                aggregate_type: aggregate.aggregate_type,
                rust_type: aggregate.rust_type,
                source: aggregate.source,
                is_fold: aggregate.is_fold,
                retired: aggregate.retired,
                state: (aggregate.state)(),
            })
            .collect();
        let place = |aggregate: &LinkedAggregate| (aggregate.aggregate_type, aggregate.source, aggregate.rust_type);
        aggregates.sort_unstable_by_key(place);
        aggregates.dedup_by_key(|aggregate| place(aggregate));
        let mut projections: Vec<_> =
            inventory::iter::<ProjectionRegistration>().map(|linked| (linked.definition)()).collect();
        projections.sort_unstable_by_key(ProjectionDefinition::place);
        Self { events, aggregates, handlers: discovered_handlers(), projections }
    }
}
