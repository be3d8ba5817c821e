//! Filters for the events of a feed.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::domain::{event::EventFilter, name::Name, record::RecordedEvent, tag::Tag};

/// A filter for the events of a feed; the default matches all. Stores apply it where they keep the events.
///
/// # Examples
/// ```
/// use eventbus::{Name, store::FeedFilter};
/// let filter = FeedFilter::all().aggregate_types([Name::new("aggregate type", "Order")?]);
/// assert_ne!(filter, FeedFilter::all());
/// # Ok::<(), eventbus::event::InvalidName>(())
/// ```
///
/// The filter of a type, an event or an enum of events:
/// ```
/// use eventbus::{EventSet, prelude::*, store::FeedFilter};
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Order")]
/// struct OrderCreated { total: u64 }
///
/// let filter = FeedFilter::from(OrderCreated::EVENTS);
/// assert!(filter.wanted_event_types().is_some_and(|types| types.iter().any(|name| name == "OrderCreated")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct FeedFilter {
    aggregate_types: Option<BTreeSet<Name>>,
    event_types: Option<BTreeSet<Name>>,
    tenant: Option<Uuid>,
    /// An event has all tags of one of these sets.
    tags: Option<BTreeSet<BTreeSet<Tag>>>,
    slots: Option<BTreeSet<u8>>,
}

impl FeedFilter {
    /// Matches every event.
    pub fn all() -> Self {
        Self::default()
    }

    /// Matches only events of aggregates of these types; no event if `types` is empty.
    pub fn aggregate_types(self, types: impl IntoIterator<Item = Name>) -> Self {
        Self { aggregate_types: Some(types.into_iter().collect()), ..self }
    }

    /// Matches only events of these types; no event if `types` is empty.
    pub fn event_types(self, types: impl IntoIterator<Item = Name>) -> Self {
        Self { event_types: Some(types.into_iter().collect()), ..self }
    }

    /// Matches only events of this tenant; the nil UUID stands for the events of no tenant.
    pub const fn tenant(mut self, tenant: Uuid) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// Matches only events that have all these tags; replaces the tags that were set before. The store must keep
    /// [tags](crate::port::EventStore::boundaries).
    ///
    /// # Examples
    /// ```
    /// use eventbus::{event::Tag, store::FeedFilter};
    /// let filter = FeedFilter::all().tagged([Tag::new("course", "c1")?, Tag::new("student", "ada")?]);
    /// assert!(filter.wanted_tags().is_some());
    /// # Ok::<(), eventbus::event::InvalidTag>(())
    /// ```
    pub fn tagged(self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.tagged_any([tags.into_iter().collect()])
    }

    /// Matches only events that have all tags of at least one of these sets.
    pub fn tagged_any(self, sets: impl IntoIterator<Item = BTreeSet<Tag>>) -> Self {
        Self { tags: Some(sets.into_iter().collect()), ..self }
    }

    /// Matches only events of streams in these [slots](RecordedEvent::slot); no event if `slots` is empty. So several
    /// readers share a feed: each reads the slots that are its own.
    ///
    /// # Examples
    /// ```
    /// use eventbus::store::FeedFilter;
    /// let [even, odd] = [0, 1].map(|rest| FeedFilter::all().slots((0..=u8::MAX).filter(|slot| slot % 2 == rest)));
    /// assert_eq!(even.wanted_slots().map(|slots| slots.len()), Some(128));
    /// assert!(odd.wanted_slots().is_some_and(|slots| slots.contains(&7)));
    /// ```
    pub fn slots(self, slots: impl IntoIterator<Item = u8>) -> Self {
        Self { slots: Some(slots.into_iter().collect()), ..self }
    }

    /// Returns the wanted slots; all if `None`.
    #[must_use]
    pub const fn wanted_slots(&self) -> Option<&BTreeSet<u8>> {
        self.slots.as_ref()
    }

    /// Returns the wanted sets of tags; all events if `None`.
    #[must_use]
    pub const fn wanted_tags(&self) -> Option<&BTreeSet<BTreeSet<Tag>>> {
        self.tags.as_ref()
    }

    /// Returns `true` if an event with these tags has the wanted ones.
    #[must_use]
    pub fn matches_tags(&self, tags: &[Tag]) -> bool {
        let has_all = |set: &BTreeSet<Tag>| set.iter().all(|tag| tags.contains(tag));
        self.tags.as_ref().is_none_or(|sets| sets.iter().any(has_all))
    }

    /// Returns the wanted aggregate types; all if `None`.
    #[must_use]
    pub const fn wanted_aggregate_types(&self) -> Option<&BTreeSet<Name>> {
        self.aggregate_types.as_ref()
    }

    /// Returns the wanted event types; all if `None`.
    #[must_use]
    pub const fn wanted_event_types(&self) -> Option<&BTreeSet<Name>> {
        self.event_types.as_ref()
    }

    /// Returns the wanted tenant; all if `None`.
    #[must_use]
    pub const fn wanted_tenant(&self) -> Option<Uuid> {
        self.tenant
    }

    /// Returns `true` if it matches every event.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        let Self { aggregate_types, event_types, tenant, tags, slots } = self;
        aggregate_types.is_none() && event_types.is_none() && tenant.is_none() && tags.is_none() && slots.is_none()
    }

    /// Returns `true` if `event` matches, whatever its tags, which a recorded event does not carry:
    /// [`matches_tags`](Self::matches_tags) checks these. For stores that cannot filter in their queries.
    #[must_use]
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        let is_among =
            |types: &Option<BTreeSet<Name>>, wanted: &str| types.as_ref().is_none_or(|types| types.contains(wanted));
        is_among(&self.aggregate_types, event.metadata().aggregate_type())
            && is_among(&self.event_types, event.event_type())
            && self.tenant.is_none_or(|tenant| event.metadata().stream().tenant_or_nil() == tenant)
            && self.slots.as_ref().is_none_or(|slots| slots.contains(&event.slot()))
    }
}

impl From<EventFilter> for FeedFilter {
    /// Matches the events of a handler, a projection or a type.
    fn from(events: EventFilter) -> Self {
        match events {
            EventFilter::All => Self::all(),
            typed => Self::all().event_types(typed.event_types().into_iter().map(Name::from_static)),
        }
    }
}
