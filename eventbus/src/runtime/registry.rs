//! The linked event types by wire name. Sorted: the order in which the linker found them is never observable.

use std::collections::BTreeMap;

use super::{definition::EventRegistration, start::StartMistake};
use crate::domain::{event::EventDescriptor, record::DomainEvent};

/// The event types of a program by wire name.
///
/// Decoding never needs the registry: aggregates decode from their own list, handlers and projections from their
/// parameters. It answers "which types does this binary know", for tools and messages.
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{event::EventRegistry, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Deposited { cents: u64 }
/// let registry = EventRegistry::discover();
/// assert_eq!(registry.get("Deposited")?.aggregate_type, "Account");
/// assert!(registry.get("Withdrawn").is_err());
/// # Ok::<(), eventbus::event::UnknownEventType>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct EventRegistry {
    /// By each wire name of the event, today's and those from before a renaming.
    events: BTreeMap<&'static str, EventDescriptor>,
    duplicates: Vec<(EventDescriptor, EventDescriptor)>,
}

impl EventRegistry {
    /// Creates an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a registry of all event types that are linked into the program.
    ///
    /// A crate that the binary never names is not linked and registers no types: add `use my_crate as _;`.
    pub fn discover() -> Self {
        Self::from_events(inventory::iter::<EventRegistration>().map(|registration| registration.descriptor))
    }

    /// Creates a registry of these event types; one that is given twice is no duplicate.
    pub(crate) fn from_events(events: impl Iterator<Item = EventDescriptor>) -> Self {
        let place = |event: &EventDescriptor| (event.event_type, event.source, event.rust_type);
        let mut found: Vec<_> = events.collect();
        found.sort_unstable_by_key(place);
        found.dedup_by_key(|event| place(event));
        let mut registry = Self::new();
        found.into_iter().for_each(|event| registry.add(event));
        registry
    }

    /// Adds one event type.
    pub fn register<E: DomainEvent>(&mut self) {
        self.add(E::DESCRIPTOR);
    }

    fn add(&mut self, event: EventDescriptor) {
        let of_another = |known: &&EventDescriptor| known.rust_type != event.rust_type;
        if let Some(first) = event.event_types().filter_map(|name| self.events.get(name)).find(of_another) {
            self.duplicates.push((*first, event));
            return;
        }
        self.events.extend(event.event_types().map(|name| (name, event)));
    }

    /// Returns the description of a type, by its wire name or one that it had before.
    ///
    /// # Errors
    /// [`UnknownEventType`] if no linked type has this wire name.
    pub fn get(&self, event_type: &str) -> Result<&EventDescriptor, UnknownEventType> {
        self.events.get(event_type).ok_or_else(|| UnknownEventType {
            event_type: event_type.into(),
            known: self.iter().map(|event| event.event_type).collect(),
        })
    }

    /// Returns the descriptions of all types, sorted by wire name.
    pub fn iter(&self) -> impl Iterator<Item = &EventDescriptor> {
        self.events.iter().filter(|(name, event)| **name == event.event_type).map(|(_, event)| event)
    }

    /// Returns the number of types.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns `true` if the registry holds no type.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn mistakes(&self) -> impl Iterator<Item = StartMistake> {
        self.duplicates.iter().map(|&(first, second)| StartMistake::DuplicateEventType { first, second })
    }
}

/// A wire name that no linked event type has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown event type `{event_type}` (known: {}); a crate that the binary never names is not linked, \
     `use my_crate as _;` links it",
    known.join(", ")
)]
#[non_exhaustive]
pub struct UnknownEventType {
    /// The requested wire name.
    pub event_type: String,
    /// The wire names of all linked types, sorted.
    pub known: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Source;

    const fn event(event_type: &'static str, line: u32) -> EventDescriptor {
        EventDescriptor::new(event_type, "Order", 1, event_type, Source::new("orders.rs", line, "orders"))
    }

    #[test]
    fn a_former_name_that_another_event_has_is_a_duplicate() {
        let (placed, created) =
            (event("OrderPlaced", 9), event("OrderCreated", 1).formerly(&["OrderPlaced", "Placed"]));
        let mistakes = |events: &[EventDescriptor]| {
            let registry = EventRegistry::from_events(events.iter().copied());
            registry.mistakes().map(|mistake| mistake.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(mistakes(&[created, created]), [""; 0]);
        for events in [[placed, created], [created, placed]] {
            let [mistake] = &mistakes(&events)[..] else { panic!("one duplicate") };
            assert!(mistake.starts_with("two events have the wire type `OrderPlaced`: "), "{mistake}");
        }
        let renamed_too = event("OrderBegun", 3).formerly(&["Placed"]);
        let [mistake] = &mistakes(&[created, renamed_too])[..] else { panic!("one duplicate") };
        assert!(mistake.starts_with("two events have the wire type `Placed`: "), "{mistake}");
    }
}
