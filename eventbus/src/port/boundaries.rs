//! Boundaries: the events with certain tags, from any streams, and appends that require that no such event was added
//! since.
//!
//! Invariant: an append with a condition takes effect only if its caller has read every event with the tags and types
//! of the condition. The commit that stores an event also counts it under each of its tags; the store locks these
//! counts to check a condition. A position would not suffice: an event at a lower position may be committed later.

use std::{collections::BTreeSet, fmt};

use async_trait::async_trait;
use auto_impl::auto_impl;
use uuid::Uuid;

use super::{AppendError, FeedFilter, ReadError, RecordStream};
use crate::domain::{name::Name, record::RecordedEvent, tag::Tag};

/// The events that a decision depends on: of one tenant and these types, with all tags of at least one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The tenant of the events; `None` for the events of no tenant.
    pub tenant_id: Option<Uuid>,
    /// The types of the events.
    pub event_types: BTreeSet<Name>,
    /// The items: an event that has all tags of one of them belongs to the boundary. None of them is empty.
    pub items: BTreeSet<BTreeSet<Tag>>,
}

/// The name under which a tag counts further tags. When a stored event gets a further tag, each tag that it had before
/// counts one under this name, as the event may now belong to a boundary of several tags. No event type has an empty
/// name.
pub const FURTHER_TAGS: &str = "";

impl Boundary {
    /// Returns the filter of its events.
    pub fn filter(&self) -> FeedFilter {
        FeedFilter::all()
            .tenant(self.tenant_id.unwrap_or(Uuid::nil()))
            .event_types(self.event_types.iter().cloned())
            .tagged_any(self.items.iter().cloned())
    }

    /// Returns the tags of all items, each once.
    #[must_use]
    pub fn tags(&self) -> BTreeSet<&Tag> {
        self.items.iter().flatten().collect()
    }

    /// Returns the names whose counts a condition sums: those of the event types, and [`FURTHER_TAGS`].
    pub fn counted_names(&self) -> impl Iterator<Item = &str> {
        self.event_types.iter().map(Name::as_str).chain([FURTHER_TAGS])
    }
}

/// The condition that no event was added to a boundary. For each of its [tags](Boundary::tags), in order, it holds a
/// count: the number of events with the tag and one of the types, plus the number of times that an event with the tag
/// got a further tag.
///
/// If an item has a further event, the counts of all its tags have grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundaryCondition {
    /// The boundary that must have no further events.
    pub boundary: Boundary,
    /// The count of each tag.
    pub counts: Vec<u64>,
}

impl BoundaryCondition {
    /// Returns the count of each tag.
    pub fn tag_counts(&self) -> impl Iterator<Item = (&Tag, u64)> {
        self.boundary.tags().into_iter().zip(self.counts.iter().copied())
    }

    /// Returns `true` if an item may have a further event, by the present counts, which `actual` returns.
    pub fn is_moved(&self, actual: impl Fn(&Tag) -> u64) -> bool {
        let moved: BTreeSet<&Tag> =
            self.tag_counts().filter(|(tag, count)| actual(tag) != *count).map(|(tag, _)| tag).collect();
        !moved.is_empty() && self.boundary.items.iter().any(|item| item.iter().all(|tag| moved.contains(tag)))
    }
}

/// A boundary, as a decision reads it.
pub struct BoundaryRead<'s> {
    /// The condition that no event is added to those in `events`.
    pub condition: BoundaryCondition,
    /// The events of the boundary, in the order of their positions.
    pub events: RecordStream<'s>,
}

impl fmt::Debug for BoundaryRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundaryRead").field("condition", &self.condition).finish_non_exhaustive()
    }
}

/// The tags of the events of a store, which counts the events of each tag.
///
/// | the append | effect |
/// |---|---|
/// | has an event with tags | counts the event under each tag, also without a condition |
/// | has a condition, and no further event is in the boundary | as without the condition |
/// | has a condition, and the boundary has a further event | none; [`AppendError::BoundaryMoved`] |
/// | is a repeat | none; returns the first result, whatever was added to the boundary since |
///
/// # Examples
/// ```
/// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId, event::Tag};
/// use eventbus::port::AppendEvents;
/// use eventbus::store::{Boundaries, Boundary};
/// use futures_util::TryStreamExt as _;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let (store, enrolled, course) = (InMemoryEventStore::new(), Name::from_static("Enrolled"), Tag::new("course", "c1")?);
/// let event = NewEvent::new(enrolled.clone(), 1, r#"{"student":"ada"}"#).with_tags([course.clone()]);
/// store.append(&StreamId::parse("Student", "ada")?, ExpectedVersion::Any, vec![event]).await?;
///
/// let boundary = Boundary { tenant_id: None, event_types: [enrolled].into(), items: [[course].into()].into() };
/// let read = store.read_boundary(&boundary).await?;
/// assert_eq!(read.condition.counts, [1]);
/// assert_eq!(read.events.try_collect::<Vec<_>>().await?.len(), 1);
/// # Ok(()) }
/// ```
#[async_trait]
#[auto_impl(Arc)]
pub trait Boundaries: Send + Sync {
    /// Returns the condition that no event is added to `boundary` from now on.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError>;

    /// Reads the events of `boundary`, and the condition that no event is added to them.
    ///
    /// A store reads both in one snapshot and one round trip, or counts first and reads afterwards, as
    /// [`count_then_read`](crate::support::count_then_read) does. Then an event that is committed in between is read
    /// but not counted, so the condition fails and the caller reads again. In the other order it would be counted but
    /// not read. Further pages of events are read as the caller consumes them.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read; each event may be one too, and is the last one then.
    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError>;

    /// Adds a tag to a stored event and counts it: under the new tag by the event's type, and under each tag that the
    /// event had before as a [further tag](FURTHER_TAGS). Returns `false` if the event has the tag already.
    ///
    /// # Errors
    /// [`AppendError::Refused`] if the store does not have the event, or if it would have more than
    /// [`TAGS_MAX`](crate::event::TAGS_MAX) tags; else as for [`append`](super::AppendEvents::append). It can be repeated.
    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError>;
}
