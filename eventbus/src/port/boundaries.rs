//! Boundaries: all events about some things, whatever their streams, and appends that need that none was added since.
//!
//! Invariant: an append with a condition takes effect only if no event that its caller has not read has the tags and types of
//! the condition. The commit that stores an event counts it under each of its tags; the store judges a condition by these
//! counts, which it has locked. A position would not do: an event at a lower one may be committed later.

use std::{collections::BTreeSet, fmt};

use async_trait::async_trait;
use auto_impl::auto_impl;
use uuid::Uuid;

use super::{AppendError, FeedFilter, ReadError, RecordStream};
use crate::domain::{name::Name, record::RecordedEvent, tag::Tag};

/// The events that a decision depends on: those of a tenant, of some types, with all tags of at least one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The tenant of the events.
    pub tenant_id: Option<Uuid>,
    /// The types of the events.
    pub event_types: BTreeSet<Name>,
    /// The items: an event that has all tags of one of them belongs to the boundary. None of them is empty.
    pub items: BTreeSet<BTreeSet<Tag>>,
}

/// The name in a tag's counts for further tags. When a stored event is given another tag, each tag that it had already
/// counts one here, as the event may now belong to a boundary of several tags. No event type is empty.
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

/// That no event was added to a boundary: for each of its [tags](Boundary::tags), in order, how many events have the tag
/// and one of the types, and how often an event with the tag was given a further tag.
///
/// An item has a further event only if the count of each of its tags has grown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundaryCondition {
    /// What must not have further events.
    pub boundary: Boundary,
    /// The counts.
    pub counts: Vec<u64>,
}

impl BoundaryCondition {
    /// Returns the count of each tag.
    pub fn tag_counts(&self) -> impl Iterator<Item = (&Tag, u64)> {
        self.boundary.tags().into_iter().zip(self.counts.iter().copied())
    }

    /// Returns `true` if the counts that `actual` tells show that an item may have a further event.
    pub fn is_moved(&self, actual: impl Fn(&Tag) -> u64) -> bool {
        let moved: BTreeSet<&Tag> =
            self.tag_counts().filter(|(tag, count)| actual(tag) != *count).map(|(tag, _)| tag).collect();
        !moved.is_empty() && self.boundary.items.iter().any(|item| item.iter().all(|tag| moved.contains(tag)))
    }
}

/// A boundary, as a decision reads it.
pub struct BoundaryRead<'s> {
    /// That no event is added that `events` does not have.
    pub condition: BoundaryCondition,
    /// The events of the boundary, in the order of their positions.
    pub events: RecordStream<'s>,
}

impl fmt::Debug for BoundaryRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundaryRead").field("condition", &self.condition).finish_non_exhaustive()
    }
}

/// The tags of the events of a store.
///
/// | the append | effect |
/// |---|---|
/// | has an event with tags | counts it under each, also if it has no condition |
/// | has a condition, and no further event is in the boundary | as without the condition |
/// | has a condition, and the boundary has a further event | none; [`AppendError::BoundaryMoved`] |
/// | is a repeat | none; the first result, whatever the boundary holds since |
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
    /// [`count_then_read`](crate::support::count_then_read) does: an event that is committed in between is read and not
    /// counted, so that the condition fails and the caller reads again. The other way round it would be counted and not
    /// read. Further pages of events are read as the caller consumes them.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read; each event may be one too, and is the last one then.
    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError>;

    /// Adds a tag to an event that is stored already, and counts it: under the tag as an event of its type, and under each
    /// tag that the event has already as a [further tag](FURTHER_TAGS). Returns `false` if the event has the tag.
    ///
    /// # Errors
    /// [`AppendError::Refused`] if the store does not have the event, or if it would have more than
    /// [`TAGS_MAX`](crate::event::TAGS_MAX) tags; else as for [`append`](super::AppendEvents::append). It can be repeated.
    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError>;
}
