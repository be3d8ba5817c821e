//! What a group is given for itself: events of a store that the bus does not hold for it any more.

use async_trait::async_trait;
use uuid::Uuid;

use super::PublishError;
use crate::domain::{
    event::{EventDescriptor, EventFilter},
    name::Name,
    record::RecordedEvent,
    shown,
    stream::Position,
};

/// A bus that can give one group events of a store which the others are not given again.
///
/// A group that is new begins with the oldest event of the store, also where the bus has trimmed or lost it; a group that
/// announces an event type for the first time is given what it skipped of it. The bus says what is missing, and a process
/// with the store brings it.
#[async_trait]
pub trait Backlogs: Send + Sync {
    /// What is missing of a store, for all groups of the bus. Who asks is expected to bring it soon.
    ///
    /// # Errors
    /// [`PublishError`] if the bus cannot be asked.
    async fn fills(&self, store: Uuid) -> Result<Vec<BacklogFill>, PublishError>;

    /// Gives the group of `fill` everything that it misses after [`BacklogFill::after`] up to `through`, which is what `events`
    /// are, in position order. With no events and `through` equal to [`BacklogFill::after`] nothing is added: the answer says
    /// whether there is room.
    ///
    /// # Errors
    /// [`PublishError`]; after an unknown outcome what is missing is asked for again.
    async fn fill(
        &self,
        fill: &BacklogFill,
        through: Position,
        events: &[RecordedEvent],
    ) -> Result<FillOutcome, PublishError>;
}

/// Events of a store that a group is to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogFill {
    /// The store.
    pub store: Uuid,
    /// The group.
    pub group: Name,
    /// The only event type it misses; all of them if `None`.
    pub event_type: Option<Name>,
    /// What it misses begins after this position.
    pub after: Position,
    /// What it misses ends with this position.
    pub through: Position,
    /// The part of the bus that misses it, as the bus counts its parts.
    pub part: usize,
}

/// What came of a [`fill`](Backlogs::fill).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FillOutcome {
    /// The group is given them.
    Done,
    /// The group has enough to do; try again later.
    Full,
    /// Another process was first; ask again what is missing.
    Moved,
}

/// What a group skipped of an event type before one of its members announced the type for the first time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SkippedBefore {
    /// The group.
    #[serde(serialize_with = "shown::display")]
    pub group: Name,
    /// The event type.
    pub event_type: String,
    /// How many events were skipped.
    pub count: u64,
    /// How long ago the first of them was skipped.
    #[serde(serialize_with = "shown::duration")]
    pub age: std::time::Duration,
}

impl SkippedBefore {
    /// Logs that no handler says whether these events are delivered: for handlers that come while the bus consumes.
    pub fn log(&self) {
        let Self { group, event_type, count, age } = self;
        tracing::error!(
            %group, event_type, count, ?age,
            "the group skipped events of this type before it had a handler, and no handler says whether they are \
             delivered: give the handler `start = \"oldest\"` or `start = \"now\"`"
        );
    }
}

/// That a group handles an event type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The group.
    pub group: Name,
    /// The event type; every one if `None`.
    pub event_type: Option<Name>,
    /// The schema version that it is handled in.
    pub schema_version: u32,
    /// What becomes of events that were skipped long before, or were stored before the group began.
    pub start: Option<HandlerStart>,
}

impl Announced {
    /// What groups handle by these filters, each type and version once; where several begin differently, the one that
    /// wants more counts.
    pub fn all<'a>(handled: impl IntoIterator<Item = (&'a Name, EventFilter, Option<HandlerStart>)>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (group, events, start) in handled {
            let types = match events {
                EventFilter::All => vec![(None, 1)],
                EventFilter::Only(events) => {
                    let typed =
                        |event: &EventDescriptor| (Some(Name::from_static(event.event_type)), event.schema_version);
                    events.iter().map(typed).collect()
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

impl HandlerStart {
    /// Of two choices the one that skips less; none leaves it to the bus.
    fn more_of(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(Self::Oldest), _) | (_, Some(Self::Oldest)) => Some(Self::Oldest),
            (None, _) | (_, None) => None,
            _ => Some(Self::Now),
        }
    }
}

/// Where a handler begins: what its group is given of events from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerStart {
    /// With the oldest event of the store.
    Oldest,
    /// With what comes from now on.
    Now,
}
