//! The events that this process appended last, for readers whose position is directly before them.
//!
//! Invariant: between positions without a gap there is no other event. So a reader may take the events directly after
//! its position, up to a gap, instead of asking the store.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::domain::{record::RecordedEvent, stream::Position};

/// The most events that are kept.
const EVENTS_MAX: usize = 512;
/// The most bytes of payloads that are kept.
const BYTES_MAX: usize = 512 * 1024;

/// The latest events that this process appended, while an app [keeps](Self::keep) them.
#[derive(Debug, Default)]
pub(crate) struct RecentAppends(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    keepers: usize,
    events: BTreeMap<Position, RecordedEvent>,
    bytes: usize,
}

impl Recent {
    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}

impl RecentAppends {
    pub(crate) fn keep(&self) -> KeptAppends<'_> {
        self.0.lock().keepers += 1;
        KeptAppends(self)
    }

    pub(crate) fn add<'e>(&self, appended: impl IntoIterator<Item = &'e RecordedEvent>) {
        let mut recent = self.0.lock();
        if recent.keepers == 0 {
            return;
        }
        for event in appended {
            let Some(position) = event.position() else { continue };
            recent.bytes += event.payload().len();
            if let Some(replaced) = recent.events.insert(position, event.clone()) {
                recent.bytes -= replaced.payload().len();
            }
        }
        while recent.events.len() > EVENTS_MAX || recent.bytes > BYTES_MAX {
            let Some((_, oldest)) = recent.events.pop_first() else { break };
            recent.bytes -= oldest.payload().len();
        }
    }

    /// Forgets all events: the store may have been replaced by an older copy, which assigns their positions again.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Returns the position of the last event if every position after `head` up to it holds an event of this process.
    pub(crate) fn end_after(&self, head: Position) -> Option<Position> {
        let recent = self.0.lock();
        let (last, _) = recent.events.last_key_value()?;
        let following = recent.events.range(head.next()..).count() as u64;
        (following > 0 && last.get() == head.get() + following).then_some(*last)
    }

    /// Returns the events directly after `after`, up to a gap, `through`, or one of the bounds; the first one however
    /// large it is.
    pub(crate) fn read(
        &self,
        after: Position,
        through: Position,
        events_max: usize,
        bytes_max: usize,
    ) -> Vec<RecordedEvent> {
        let recent = self.0.lock();
        let (mut events, mut bytes) = (Vec::new(), 0);
        for (number, (position, event)) in (1..).zip(recent.events.range(after.next()..)) {
            bytes += event.payload().len();
            let is_next = position.get() == after.get() + number && *position <= through;
            if !is_next || events.len() == events_max || (bytes > bytes_max && !events.is_empty()) {
                break;
            }
            events.push(event.clone());
        }
        events
    }
}

/// Makes [`RecentAppends`] keep events until it is dropped.
#[derive(Debug)]
pub(crate) struct KeptAppends<'a>(&'a RecentAppends);

impl Drop for KeptAppends<'_> {
    fn drop(&mut self) {
        let mut recent = self.0.0.lock();
        recent.keepers -= 1;
        if recent.keepers == 0 {
            recent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{name::Name, record::NewEvent, stream::StreamId};

    fn event(position: u64, bytes: usize) -> RecordedEvent {
        let stream = StreamId::parse("Order", "1").unwrap();
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes));
        NewEvent::new(Name::from_static("Noted"), 1, payload).recorded_as(stream, 1.into(), Some(position.into()))
    }

    fn positions(recent: &RecentAppends, after: u64, through: u64) -> Vec<u64> {
        let events = recent.read(after.into(), through.into(), 3, 1_000);
        events.iter().map(|event| event.position().unwrap().get()).collect()
    }

    #[test]
    fn events_are_read_up_to_a_gap_or_a_bound() {
        let recent = RecentAppends::default();
        let kept = recent.keep();
        // two appends at once may end in any order
        recent.add([&event(13, 0), &event(14, 0)]);
        assert_eq!((positions(&recent, 10, 99), recent.end_after(10.into())), (vec![], None));
        recent.add([&event(11, 0), &event(12, 0)]);
        assert_eq!((positions(&recent, 10, 99), recent.end_after(10.into())), (vec![11, 12, 13], Some(14.into())));
        assert_eq!(positions(&recent, 12, 99), [13, 14]);
        assert_eq!(positions(&recent, 10, 12), [11, 12], "no event after the head");
        assert_eq!((positions(&recent, 9, 99), recent.end_after(9.into())), (vec![], None), "10 is unknown");
        assert_eq!((positions(&recent, 14, 99), recent.end_after(14.into())), (vec![], None));
        recent.add([&event(15, 900), &event(16, 900), &event(18, 0)]);
        assert_eq!(positions(&recent, 14, 99), [15], "limited in bytes");
        assert_eq!(positions(&recent, 15, 99), [16]);
        assert_eq!(recent.end_after(14.into()), None, "17 is unknown");
        recent.clear();
        assert!(positions(&recent, 14, 99).is_empty());
        drop(kept);
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends_with_the_last_keeper() {
        let recent = RecentAppends::default();
        recent.add([&event(1, 0)]);
        assert!(positions(&recent, 0, 9).is_empty(), "no app keeps it");
        let (one, other) = (recent.keep(), recent.keep());
        let many: Vec<_> = (1..=EVENTS_MAX as u64 + 1).map(|position| event(position, 0)).collect();
        recent.add(&many);
        recent.add(&many);
        assert_eq!((positions(&recent, 0, 9), positions(&recent, 1, 9)), (vec![], vec![2, 3, 4]));
        recent.add([&event(1_000, BYTES_MAX - 100)]);
        assert!(positions(&recent, 1, 9).is_empty());
        assert_eq!(positions(&recent, 999, 1_000), [1_000]);
        drop(one);
        assert_eq!(positions(&recent, 999, 1_000), [1_000]);
        drop(other);
        assert_eq!(recent.0.lock().bytes, 0);
        assert!(positions(&recent, 999, 1_000).is_empty());
    }
}
