//! Announcements: which event types the groups of a bus handle, and what they skipped before.

use std::sync::Arc;

use super::{EventStore, ReadError, StoredEventType, SubscriberStatus, subscriber::HandlerStart};
use crate::domain::{
    event::{EventDescriptor, EventFilter},
    name::Name,
    shown,
    stream::Position,
};

/// Events of a type that a group skipped before one of its members announced the type for the first time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SkippedBefore {
    /// The group.
    #[serde(serialize_with = "shown::display")]
    pub group: Name,
    /// The event type.
    pub event_type: String,
    /// The number of skipped events.
    pub count: u64,
    /// The time since the group skipped the first of them.
    #[serde(serialize_with = "shown::duration")]
    pub age: std::time::Duration,
}

impl SkippedBefore {
    /// Logs an error: no handler says whether the bus delivers these events. For handlers that subscribe while the bus
    /// consumes.
    pub fn log(&self) {
        let Self { group, event_type, count, age } = self;
        tracing::error!(
            %group, event_type, count, ?age,
            "the group skipped events of this type before it had a handler, and no handler says whether they are \
             delivered: give the handler `start = \"oldest\"` or `start = \"now\"`"
        );
    }
}

/// The announcement that a group handles an event type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The group.
    pub group: Name,
    /// The event type; every type if `None`.
    pub event_type: Option<Name>,
    /// The schema version of the event in the handler's code.
    pub schema_version: u32,
    /// The handler's choice for events that the group skipped long ago, or that were stored before the group began.
    pub start: Option<HandlerStart>,
}

impl Announced {
    /// Returns the types that these subscribers of one group handle.
    #[must_use]
    pub fn by_subscribers(group: &Name, subscribers: &[Arc<dyn SubscriberStatus>]) -> Vec<Self> {
        let of_group = subscribers.iter().filter(|other| other.group() == group).map(|other| other.subscriber());
        Self::all(of_group.map(|subscriber| (group, subscriber.events(), subscriber.options().start)))
    }

    /// Returns `true` if a store has events that the announced handlers of one group take: events of their types, or any
    /// event if the store has no list of types.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    #[doc(hidden)]
    pub async fn match_stored(announced: &[Self], store: &dyn EventStore) -> Result<bool, ReadError> {
        let Some(types) = store.event_types() else { return Ok(store.head().await? > Position::START) };
        let takes = |stored: &StoredEventType| {
            announced
                .iter()
                .any(|handled| handled.event_type.as_ref().is_none_or(|wanted| *wanted == stored.event_type))
        };
        Ok(types.stored_event_types().await?.iter().any(takes))
    }

    /// Returns the announcements for these groups and filters, each type and version once. If starts differ, the one
    /// that skips fewer events counts.
    pub fn all<'a>(handled: impl IntoIterator<Item = (&'a Name, EventFilter, Option<HandlerStart>)>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (group, events, start) in handled {
            let types = match events {
                EventFilter::All => vec![(None, 1)],
                EventFilter::Only(events) => {
                    let typed = |event: &EventDescriptor| {
                        let version = event.schema_version;
                        event.event_types().map(move |event_type| (Some(Name::from_static(event_type)), version))
                    };
                    events.iter().flat_map(typed).collect()
                }
            };
            for (event_type, schema_version) in types {
                let one = Self { group: group.clone(), event_type, schema_version, start };
                let same = |known: &&mut Self| {
                    known.group == one.group
                        && known.event_type == one.event_type
                        && known.schema_version == one.schema_version
                };
                match all.iter_mut().find(same) {
                    Some(known) => known.start = HandlerStart::more_of(known.start, start),
                    None => all.push(one),
                }
            }
        }
        all
    }
}
