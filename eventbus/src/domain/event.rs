//! Event types and filters of them, as constants that the derive makes.

use super::unique::UniqueName;

/// One event type as the registry and the start-up checks see it; a constant of every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct EventDescriptor {
    /// The durable wire name: `OrderCreated`.
    pub event_type: &'static str,
    /// The wire names that it had before, as in `#[event(was("OrderPlaced"))]`.
    pub former_types: &'static [&'static str],
    /// The type of the aggregate it belongs to: `Order`.
    pub aggregate_type: &'static str,
    /// The version of the payload's shape, from 1.
    pub schema_version: u32,
    /// The path of the Rust type.
    pub rust_type: &'static str,
    /// Where the type is declared.
    pub source: Source,
    /// The unique values that the event takes or gives back.
    #[doc(hidden)]
    pub unique: &'static [UniqueName],
    /// The names of the tags of the event, as in `#[event(tags(course, student))]`.
    pub tags: &'static [&'static str],
    /// The names of its fields with personal data, as in `#[event(personal(email))]`: the names in the payload, which
    /// `#[serde(rename = "..")]` may set, and those of `#[serde(alias = "..")]`.
    pub personal: &'static [&'static str],
}

impl EventDescriptor {
    #[doc(hidden)]
    pub const fn new(
        event_type: &'static str,
        aggregate_type: &'static str,
        schema_version: u32,
        rust_type: &'static str,
        source: Source,
    ) -> Self {
        Self {
            event_type,
            former_types: &[],
            aggregate_type,
            schema_version,
            rust_type,
            source,
            unique: &[],
            tags: &[],
            personal: &[],
        }
    }

    /// Sets the wire names that the event had before.
    #[doc(hidden)]
    pub const fn formerly(self, former_types: &'static [&'static str]) -> Self {
        Self { former_types, ..self }
    }

    /// Sets the unique values that the event takes or gives back.
    #[doc(hidden)]
    pub const fn with_unique(self, unique: &'static [UniqueName]) -> Self {
        Self { unique, ..self }
    }

    /// Sets the names of the tags of the event.
    #[doc(hidden)]
    pub const fn with_tags(self, tags: &'static [&'static str]) -> Self {
        Self { tags, ..self }
    }

    /// Sets the names of the fields with data of a person.
    #[doc(hidden)]
    pub const fn with_personal(self, personal: &'static [&'static str]) -> Self {
        Self { personal, ..self }
    }

    /// Returns `true` if `event_type` is the wire name of the event, or was before.
    ///
    /// # Examples
    /// ```standalone_crate
    /// # use eventbus::prelude::*;
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate_type = "Account", was("MoneyPaidIn"))]
    /// struct Deposited { cents: u64 }
    ///
    /// let deposited = eventbus::event::EventRegistry::discover().get("Deposited").copied()?;
    /// assert!(deposited.is_named("Deposited") && deposited.is_named("MoneyPaidIn"));
    /// assert!(!deposited.is_named("Withdrawn"));
    /// # Ok::<(), eventbus::event::UnknownEventType>(())
    /// ```
    #[must_use]
    pub fn is_named(&self, event_type: &str) -> bool {
        self.event_type == event_type || self.former_types.contains(&event_type)
    }

    /// Returns the wire names of its stored events: today's, then those it had before.
    pub fn event_types(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.event_type].into_iter().chain(self.former_types.iter().copied())
    }

    /// Returns `true` if the two events have a present or former wire name in common.
    const fn shares_a_name(&self, other: &Self) -> bool {
        let mut i = 0;
        while i < other.former_types.len() {
            if self.has_name(other.former_types[i]) {
                return true;
            }
            i += 1;
        }
        self.has_name(other.event_type)
    }

    /// As [`is_named`](Self::is_named), for use in constants.
    const fn has_name(&self, event_type: &str) -> bool {
        let mut i = 0;
        while i < self.former_types.len() {
            if same_text(self.former_types[i], event_type) {
                return true;
            }
            i += 1;
        }
        same_text(self.event_type, event_type)
    }
}

/// A place in the source code, for start-up messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{file}:{line}")]
#[non_exhaustive]
#[must_use]
pub struct Source {
    /// The file, as the compiler saw it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// The path of the module; its first part is the crate.
    pub module: &'static str,
}

impl Source {
    #[doc(hidden)]
    pub const fn new(file: &'static str, line: u32, module: &'static str) -> Self {
        Self { file, line, module }
    }

    /// The name of the crate, as code writes it: `my_orders`.
    #[must_use]
    pub fn crate_name(&self) -> &'static str {
        self.module.split("::").next().unwrap_or_default()
    }
}

/// The events that a handler, a projection or a subscriber requests.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub enum EventFilter {
    /// Events of every type.
    All,
    /// These types only.
    Only(&'static [EventDescriptor]),
}

impl EventFilter {
    /// Returns `true` if it requests events of this wire name.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(events) => events.iter().any(|event| event.is_named(event_type)),
        }
    }

    /// The requested types; empty for [`EventFilter::All`].
    pub const fn descriptors(&self) -> &'static [EventDescriptor] {
        match self {
            Self::All => &[],
            Self::Only(events) => events,
        }
    }

    /// The requested wire names, those from before a renaming included, sorted; empty for [`EventFilter::All`].
    #[must_use]
    pub fn event_types(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.descriptors().iter().flat_map(EventDescriptor::event_types).collect();
        names.sort_unstable();
        names
    }

    /// Returns the number of types that all `filters` request together; used while compiling projections.
    #[doc(hidden)]
    #[must_use]
    pub const fn count(filters: &[Self]) -> usize {
        let (mut total, mut i) = (0, 0);
        while i < filters.len() {
            total += filters[i].descriptors().len();
            i += 1;
        }
        total
    }

    /// Returns the types that all `filters` request together; `N` is their [`count`](Self::count).
    #[doc(hidden)]
    pub const fn collect<const N: usize>(filters: &[Self]) -> [EventDescriptor; N] {
        let mut all = [EventDescriptor::new("", "", 1, "", Source::new("", 0, "")); N];
        let (mut next, mut i) = (0, 0);
        while i < filters.len() {
            let events = filters[i].descriptors();
            let mut j = 0;
            while j < events.len() {
                all[next] = events[j];
                next += 1;
                j += 1;
            }
            i += 1;
        }
        all
    }

    /// Returns the union of `filters`, whose types are `all`; [`EventFilter::All`] if one of them is.
    #[doc(hidden)]
    pub const fn union(filters: &[Self], all: &'static [EventDescriptor]) -> Self {
        let mut i = 0;
        while i < filters.len() {
            if matches!(filters[i], Self::All) {
                return Self::All;
            }
            i += 1;
        }
        Self::Only(all)
    }

    /// Returns `true` if both may request the same event; used while compiling projections.
    #[doc(hidden)]
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        let (Self::Only(mine), Self::Only(theirs)) = (self, other) else {
            return true;
        };
        let mut i = 0;
        while i < mine.len() {
            let mut j = 0;
            while j < theirs.len() {
                if mine[i].shares_a_name(&theirs[j]) {
                    return true;
                }
                j += 1;
            }
            i += 1;
        }
        false
    }

    /// Returns `true` if the event at `index` normalizes its unique values as the events before it do; used while
    /// compiling aggregates.
    #[doc(hidden)]
    #[must_use]
    pub const fn normalizes_alike(&self, index: usize) -> bool {
        let events = self.descriptors();
        let (mine, mut i) = (events[index].unique, 0);
        while i < mine.len() {
            let mut j = 0;
            while mine[i].takes && j < index {
                if let Some(other) = find_taken(events[j].unique, mine[i].name)
                    && !same_text(other.normalized_by, mine[i].normalized_by)
                {
                    return false;
                }
                j += 1;
            }
            i += 1;
        }
        true
    }

    /// Returns `true` if some event takes each unique value that the event at `index` releases; used while compiling
    /// aggregates.
    #[doc(hidden)]
    #[must_use]
    pub const fn takes_what_is_released(&self, index: usize) -> bool {
        let events = self.descriptors();
        let (mine, mut i) = (events[index].unique, 0);
        while i < mine.len() {
            let (mut is_taken, mut j) = (mine[i].takes, 0);
            while !is_taken && j < events.len() {
                is_taken = find_taken(events[j].unique, mine[i].name).is_some();
                j += 1;
            }
            if !is_taken {
                return false;
            }
            i += 1;
        }
        true
    }

    /// Returns `true` if the event at `index` has tags; used while compiling decisions.
    #[doc(hidden)]
    #[must_use]
    pub const fn is_tagged(&self, index: usize) -> bool {
        !self.descriptors()[index].tags.is_empty()
    }

    /// Returns `true` if it requests events of this wire name; used while compiling aggregates.
    #[doc(hidden)]
    #[must_use]
    pub const fn has_name(&self, event_type: &str) -> bool {
        let Self::Only(events) = self else {
            return true;
        };
        let mut i = 0;
        while i < events.len() {
            if events[i].has_name(event_type) {
                return true;
            }
            i += 1;
        }
        false
    }

    /// Returns `true` if no earlier event shares a wire name with the event at `index`; used while compiling aggregates.
    #[doc(hidden)]
    #[must_use]
    pub const fn is_first(&self, index: usize) -> bool {
        let Self::Only(events) = self else {
            return true;
        };
        let mut i = 0;
        while i < index {
            if events[i].shares_a_name(&events[index]) {
                return false;
            }
            i += 1;
        }
        true
    }
}

/// Returns the unique value of this name that is taken.
const fn find_taken(unique: &[UniqueName], name: &str) -> Option<UniqueName> {
    let mut i = 0;
    while i < unique.len() {
        if unique[i].takes && same_text(unique[i].name, name) {
            return Some(unique[i]);
        }
        i += 1;
    }
    None
}

/// Returns `true` if two texts are equal; usable in constants.
const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Returns `true` if an event that names the aggregate `named` belongs to `aggregate`; an event whose derive failed
/// names none, and counts as belonging.
#[doc(hidden)]
#[must_use]
pub const fn belongs_to(named: &str, aggregate: &str) -> bool {
    named.is_empty() || same_text(named, aggregate)
}
