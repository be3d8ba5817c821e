//! The event types that a group announced, and the events it left unhandled; shared by buses that keep both as one
//! value.
//!
//! An event that no handler wants:
//!
//! | its type | the event |
//! |---|---|
//! | was never announced | is skipped: acknowledged, and noted in the range of its type |
//! | was announced before | is left pending: noted in the range of its type, until a handler of the type comes |
//!
//! The range of a type when the group announces the type:
//!
//! | the type | the range | `start` | the range is | the type is announced |
//! |---|---|---|---|---|
//! | was announced before | any | any | delivered | as before |
//! | is new | began within the given time | none | delivered | from now on |
//! | is new | is older | none | kept, and returned as undecided | not yet |
//! | is new | any | `oldest` | delivered | from now on |
//! | is new | any | `now` | forgotten | from now on |
//!
//! An app that starts asks first: if one type is undecided, it does not start, and announces none.
//!
//! Invariant: a range is saved no later than the progress that passes its events.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::Subscribers;
use crate::{
    domain::{clock::SharedClock, name::Name, record::RecordedEvent},
    port::{Announced, SkippedBefore, subscriber::HandlerStart},
};

/// The default limit for the age of a skipped range that is delivered once the group announces its event type: 24 h.
pub const DELIVER_SKIPPED_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Stands for every type.
const ANY_TYPE: &str = "*";

/// The event types that a consumer group ever announced, and the ranges of events that it left unhandled.
///
/// The bus orders the group's events by place: the position in a store, the id in a queue. Times are milliseconds since
/// 1970.
///
/// # Examples
/// ```
/// use eventbus::delivery::{GroupTypes, Unhandled};
/// let mut types = GroupTypes::default();
/// assert_eq!(types.note_unhandled("OrderShipped", 7, 1_000), Unhandled::Skipped { is_first: true });
/// assert_eq!(types.note_unhandled("OrderShipped", 9, 2_000), Unhandled::Skipped { is_first: false });
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupTypes {
    /// Each `type@version`, or `*` for all types.
    announced: BTreeMap<String, AnnouncedSince>,
    /// By event type.
    unhandled: BTreeMap<String, UnhandledRange>,
    /// The ranges to deliver, one after the other.
    due: Vec<DueRange>,
}

/// The time when a group announced a type, and the handler's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AnnouncedSince {
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<HandlerStart>,
}

/// The events of one type that a group left unhandled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnhandledRange {
    /// The place of the first event.
    pub first: u64,
    /// The place of the last event.
    pub last: u64,
    /// The number of events.
    pub count: u64,
    /// The time when the group left the first event unhandled.
    pub since: u64,
}

/// A range of events of one type that the bus is to deliver to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DueRange {
    /// The event type.
    pub event_type: String,
    /// The place after which it begins.
    pub after: u64,
    /// The place it ends with.
    pub through: u64,
}

/// The outcome of an event that no handler of its group wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unhandled {
    /// The group never announced its type: the bus acknowledges it.
    Skipped {
        /// Set if it begins the range of its type.
        is_first: bool,
    },
    /// The group announced its type before: the bus delivers it when a handler of the type comes.
    LeftPending {
        /// Set if it begins the range of its type.
        is_first: bool,
    },
}

impl UnhandledRange {
    /// Reports the range as skipped by a group before the group had a handler.
    #[must_use]
    pub fn skipped_before(&self, group: &Name, event_type: String, clock: &SharedClock) -> SkippedBefore {
        let age = Duration::from_millis(clock.unix_millis().saturating_sub(self.since));
        SkippedBefore { group: group.clone(), event_type, count: self.count, age }
    }
}

impl GroupTypes {
    /// Returns `true` if the group ever announced a type, in any version.
    #[must_use]
    pub fn has_announced(&self, event_type: &str) -> bool {
        self.announced.contains_key(ANY_TYPE) || self.announced.keys().any(|name| is_of_type(name, event_type))
    }

    /// Returns `true`, and logs it, if an event that failed for good waits for a newer release: the group announced its
    /// schema version or a later one before, and the handlers of this process were made for older versions only.
    #[must_use]
    pub fn leave_to_newer_release(&self, subscribers: &Subscribers, group: &Name, record: &RecordedEvent) -> bool {
        let (event_type, schema_version) = (record.event_type(), record.metadata().schema_version());
        let leaves = self.is_for_newer_release(event_type, schema_version, &subscribers.versions(group, event_type));
        if leaves {
            tracing::warn!(
                %group, %event_type, schema_version,
                "event cannot be decoded here and is left for a release that knows its schema version"
            );
        }
        leaves
    }

    fn is_for_newer_release(&self, event_type: &str, schema_version: u32, known: &[u32]) -> bool {
        known.iter().max().is_some_and(|newest| *newest < schema_version)
            && self
                .announced
                .keys()
                .filter_map(|name| version_of(name, event_type))
                .any(|known| known >= schema_version)
    }

    /// Adds an event that no handler wants to the range of its type.
    pub fn note_unhandled(&mut self, event_type: &str, place: u64, now: u64) -> Unhandled {
        let is_first = !self.unhandled.contains_key(event_type);
        let fresh = || UnhandledRange { first: place, last: place, count: 0, since: now };
        let range = self.unhandled.entry(event_type.to_owned()).or_insert_with(fresh);
        // events of different aggregates come in any order
        (range.first, range.last) = (range.first.min(place), range.last.max(place));
        range.count += 1;
        match self.has_announced(event_type) {
            true => Unhandled::LeftPending { is_first },
            false => Unhandled::Skipped { is_first },
        }
    }

    /// Returns the place where the range of a type begins, if it has one.
    #[must_use]
    pub fn unhandled_from(&self, event_type: &str) -> Option<u64> {
        self.unhandled.get(event_type).map(|range| range.first)
    }

    /// Extends every range up to a place that the group has passed, for a bus that saves only where a range begins.
    pub fn extend_to(&mut self, place: u64) {
        for range in self.unhandled.values_mut() {
            range.last = range.last.max(place);
        }
    }

    /// Announces the types that the group handles. Returns the ranges that are older than `within` and for which no
    /// handler has a `start`; their types are not announced.
    pub fn announce(&mut self, announced: &[Announced], within: Duration, now: u64) -> Vec<(String, UnhandledRange)> {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let mut undecided = Vec::new();
        for Announced { event_type, schema_version, start, .. } in announced {
            let (names, field) = match event_type {
                Some(name) => (vec![name.to_string()], versioned(name, *schema_version)),
                None => (self.unhandled.keys().cloned().collect(), ANY_TYPE.to_owned()),
            };
            let mut is_decided = true;
            for name in names {
                let Some(range) = self.unhandled.get(&name) else {
                    continue;
                };
                let is_new = !self.has_announced(&name);
                if is_new && start.is_none() && now.saturating_sub(range.since) >= within {
                    undecided.push((name, range.clone()));
                    is_decided = false;
                } else if is_new && *start == Some(HandlerStart::Now) {
                    self.unhandled.remove(&name);
                } else {
                    self.deliver(name);
                }
            }
            // an undecided type stays new, so that a later announcement decides about its range
            if is_decided {
                self.announced.entry(field).or_insert(AnnouncedSince { at: now, start: *start });
            }
        }
        undecided
    }

    /// Returns what [`announce`](Self::announce) would return, and announces nothing.
    #[must_use]
    pub fn undecided(&self, announced: &[Announced], within: Duration, now: u64) -> Vec<(String, UnhandledRange)> {
        self.clone().announce(announced, within, now)
    }

    fn deliver(&mut self, event_type: String) {
        if let Some(range) = self.unhandled.remove(&event_type) {
            self.due.push(DueRange { event_type, after: range.first.saturating_sub(1), through: range.last });
        }
    }

    /// Returns the range to deliver next.
    #[must_use]
    pub fn due(&self) -> Option<&DueRange> {
        self.due.first()
    }

    /// Moves the start of the range delivered now to this place, and ends the range if it is delivered.
    pub fn delivered_through(&mut self, place: u64) {
        if let Some(due) = self.due.first_mut() {
            due.after = due.after.max(place);
            if due.after >= due.through {
                self.due.remove(0);
            }
        }
    }

    /// Forgets a type: the group skips its events from now on, as if it had never announced it. Returns `true` if it
    /// had. With `*` it forgets only the announcement of all types, not the types that the group announced by name.
    pub fn forget(&mut self, event_type: &str) -> bool {
        if event_type == ANY_TYPE {
            return self.announced.remove(ANY_TYPE).is_some();
        }
        let before = self.announced.len();
        self.announced.retain(|name, _| !is_of_type(name, event_type));
        self.unhandled.remove(event_type);
        self.due.retain(|due| due.event_type != event_type);
        self.announced.len() < before
    }

    /// Returns the lowest place of an event that is still to be handled; skipped events do not count.
    #[must_use]
    pub fn oldest_unfinished(&self) -> Option<u64> {
        let left = self.unhandled.iter().filter(|(name, _)| self.has_announced(name)).map(|(_, range)| range.first);
        left.chain(self.due.iter().map(|due| due.after.saturating_add(1))).min()
    }

    /// Counts the events of announced types that are left for a handler that is not here.
    #[must_use]
    pub fn count_left_pending(&self) -> u64 {
        self.unhandled.iter().filter(|(name, _)| self.has_announced(name)).map(|(_, range)| range.count).sum()
    }
}

/// Logs that a group skips a type from now on.
pub fn log_skipped_type(group: &Name, event_type: &str) {
    tracing::info!(
        %group, event_type,
        "the group has no handler for this event type: it skips the events, and notes the skipped range"
    );
}

fn versioned(event_type: &str, schema_version: u32) -> String {
    format!("{event_type}@{schema_version}")
}

/// Returns `true` if `versioned` is this type with a version.
fn is_of_type(versioned: &str, event_type: &str) -> bool {
    version_of(versioned, event_type).is_some()
}

/// Returns the version behind the last `@`, if `versioned` is of this type: names of types may contain an `@`, too.
fn version_of(versioned: &str, event_type: &str) -> Option<u32> {
    versioned.strip_prefix(event_type)?.strip_prefix('@')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const DAY_MS: u64 = 86_400_000;

    fn announced(event_type: Option<&'static str>, schema_version: u32, start: Option<HandlerStart>) -> [Announced; 1] {
        let event_type = event_type.map(Name::from_static);
        [Announced { group: Name::from_static("g"), event_type, schema_version, start }]
    }

    fn skipped() -> GroupTypes {
        let mut types = GroupTypes::default();
        for place in [7, 5, 9] {
            types.note_unhandled("A", place, 1_000 + place);
        }
        types
    }

    fn due(types: &GroupTypes) -> Option<(&str, u64, u64)> {
        types.due().map(|due| (due.event_type.as_str(), due.after, due.through))
    }

    #[test]
    fn what_was_never_announced_is_skipped_and_what_was_is_left() {
        let mut types = GroupTypes::default();
        assert_eq!(types.note_unhandled("A", 3, 1), Unhandled::Skipped { is_first: true });
        assert_eq!(types.note_unhandled("A", 4, 2), Unhandled::Skipped { is_first: false });
        assert_eq!((types.count_left_pending(), types.oldest_unfinished()), (0, None));
        types.announce(&announced(Some("B"), 2, None), DAY, 3);
        assert_eq!(types.note_unhandled("B", 5, 4), Unhandled::LeftPending { is_first: true });
        assert_eq!(types.note_unhandled("B", 6, 5), Unhandled::LeftPending { is_first: false });
        assert_eq!((types.count_left_pending(), types.oldest_unfinished()), (2, Some(5)));
        assert!(types.has_announced("B") && !types.has_announced("B@2") && !types.has_announced(""));
    }

    #[test]
    fn an_event_waits_for_a_newer_release_if_its_version_or_a_later_one_was_announced_and_those_here_are_older() {
        let mut types = GroupTypes::default();
        for version in [1, 3] {
            types.announce(&announced(Some("A"), version, None), DAY, 0);
        }
        for (version, known, waits) in [
            (3, &[1, 2][..], true),
            (3, &[2, 3], false),
            (3, &[], false),
            (1, &[3], false),
            (2, &[1], true),
            (4, &[1], false),
        ] {
            assert_eq!(
                types.is_for_newer_release("A", version, known),
                waits,
                "version {version} where {known:?} are known"
            );
        }
    }

    #[test]
    fn an_announcement_makes_of_a_range_what_the_table_says() {
        let (oldest, now) = (Some(HandlerStart::Oldest), Some(HandlerStart::Now));
        let in_time = 1_007 + DAY_MS - 1;
        for (start, at, is_undecided, is_due) in [
            (None, in_time, false, true),
            (None, in_time + 1, true, false),
            (oldest, in_time + 1, false, true),
            (now, in_time, false, false),
            (now, in_time + 1, false, false),
        ] {
            for name in [Some("A"), None] {
                let mut types = skipped();
                let undecided = types.announce(&announced(name, 1, start), DAY, at);
                let case = format!("{start:?} at {at} as {name:?}");
                assert_eq!(!undecided.is_empty(), is_undecided, "{case}");
                assert_eq!(types.has_announced("A"), !is_undecided, "{case}");
                assert_eq!(due(&types), is_due.then_some(("A", 4, 9)), "{case}");
                if start == now {
                    types.announce(&announced(name, 1, start), DAY, at);
                    assert_eq!(due(&types), None, "{case}, announced again");
                }
                if is_undecided {
                    let range = UnhandledRange { first: 5, last: 9, count: 3, since: 1_007 };
                    assert_eq!(undecided, [("A".to_owned(), range)], "{case}");
                    assert!(types.announce(&announced(name, 1, oldest), DAY, at).is_empty(), "{case}");
                    assert_eq!(due(&types), Some(("A", 4, 9)), "{case}");
                }
            }
        }
    }

    #[test]
    fn what_was_left_is_delivered_however_old_it_is_and_whatever_is_chosen() {
        for start in [None, Some(HandlerStart::Oldest), Some(HandlerStart::Now)] {
            let mut types = GroupTypes::default();
            types.announce(&announced(Some("A"), 1, None), DAY, 0);
            types.note_unhandled("A", 5, 1);
            assert!(types.announce(&announced(Some("A"), 2, start), DAY, 10 * DAY_MS).is_empty());
            assert_eq!(
                (due(&types), types.count_left_pending(), types.oldest_unfinished()),
                (Some(("A", 4, 5)), 0, Some(5))
            );
        }
    }

    #[test]
    fn a_range_is_delivered_once_and_in_parts() {
        let mut types = skipped();
        types.extend_to(20);
        types.announce(&announced(Some("A"), 1, None), DAY, 2_000);
        types.delivered_through(8);
        assert_eq!(due(&types), Some(("A", 8, 20)));
        let kept: GroupTypes = serde_json::from_str(&serde_json::to_string(&types).unwrap()).unwrap();
        assert_eq!(kept, types);
        types.delivered_through(20);
        assert_eq!(due(&types), None);
        assert!(types.announce(&announced(Some("A"), 1, None), DAY, 3_000).is_empty());
        assert_eq!((due(&types), types.oldest_unfinished()), (None, None));
    }

    #[test]
    fn a_forgotten_type_is_skipped_again() {
        let mut types = skipped();
        types.announce(&announced(Some("A"), 1, None), DAY, 2_000);
        types.note_unhandled("A", 11, 3_000);
        assert!(types.forget("A") && !types.forget("A"));
        assert_eq!((due(&types), types.oldest_unfinished()), (None, None));
        assert_eq!(types.note_unhandled("A", 12, 4_000), Unhandled::Skipped { is_first: true });
        types.announce(&announced(None, 0, None), DAY, 5_000);
        assert!(types.forget("*") && !types.forget("*"));
        assert_eq!(types.note_unhandled("B", 13, 6_000), Unhandled::Skipped { is_first: true });
    }
}
