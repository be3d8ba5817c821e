//! The event types that a group of the in-process bus announced, and the events that it left unhandled.
//!
//! Events of the store are noted by position: the note in the store says where a range begins, and the range reaches up
//! to the checkpoint. Events that no store holds are noted by their number in the log, as long as the log holds them.
//!
//! Only one process handles a group of this bus, so it leaves no event to a different member: an event of a type that
//! was announced before waits for the next release that handles the type.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::store_access::checkpoint_name;
use crate::{
    delivery::{DueRange, GroupTypes, Subscribers, Unhandled, UnhandledRange},
    domain::{error::BoxError, name::Name, record::RecordedEvent, stream::Position},
    port::{Announced, CheckpointError, EventStore, FeedFilter, ReadError, RecordStream, SkippedBefore},
    support::{BatchEnd, FeedBatch, PAGE_BYTES, from_json, read_around},
};

/// The most events of a range that are restored at once.
const PAGE_EVENTS: usize = 64;

/// The location of an event that no handler wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum EventLocation {
    /// In the store.
    Stored(Position),
    /// In the log only, under this number.
    OnlyInLog(u64),
}

/// The announced types and unhandled events of one group.
#[derive(Debug, Default)]
pub(super) struct AnnouncedTypes {
    in_store: GroupTypes,
    in_log: GroupTypes,
    /// The number of changes of `in_store`, and that number at the last save.
    changes: u64,
    saved: u64,
}

impl AnnouncedTypes {
    /// Takes over the types that a store kept.
    pub(super) fn load(&mut self, stored: GroupTypes) {
        self.in_store = stored;
        self.saved = self.changes;
    }

    pub(super) fn has_announced(&self, event_type: &str) -> bool {
        self.in_store.has_announced(event_type)
    }

    /// Calls [`GroupTypes::leave_to_newer_release`].
    pub(super) fn leaves_to_newer(&self, subscribers: &Subscribers, group: &Name, record: &RecordedEvent) -> bool {
        self.in_store.leave_to_newer_release(subscribers, group, record)
    }

    /// Adds an event that no handler wants to the range of its type.
    pub(super) fn pass_unhandled(&mut self, event_type: &str, location: EventLocation, now: u64) -> Unhandled {
        let position = match location {
            EventLocation::Stored(position) => position.get(),
            EventLocation::OnlyInLog(number) => return self.in_log.note_unhandled(event_type, number + 1, now),
        };
        // only the start of a range is a change to save: its end follows from the checkpoint. An event that waited, or was
        // blocked, may come after later ones.
        if self.in_store.unhandled_from(event_type).is_none_or(|first| position < first) {
            self.changes += 1;
        }
        self.in_store.note_unhandled(event_type, position, now)
    }

    /// Announces the types that the group handles; returns the undecided ranges.
    pub(super) fn announce(
        &mut self,
        announced: &[Announced],
        within: Duration,
        now: u64,
    ) -> Vec<(String, UnhandledRange)> {
        let before = self.in_store.clone();
        let mut undecided = self.in_store.announce(announced, within, now);
        undecided.extend(self.in_log.announce(announced, within, now));
        self.changes += u64::from(self.in_store != before);
        undecided
    }

    /// Returns the ranges for which [`announce`](Self::announce) would need a decision.
    pub(super) fn undecided(
        &self,
        announced: &[Announced],
        within: Duration,
        now: u64,
    ) -> Vec<(String, UnhandledRange)> {
        let mut undecided = self.in_store.undecided(announced, within, now);
        undecided.extend(self.in_log.undecided(announced, within, now));
        undecided
    }

    /// Forgets that a type was announced; returns `true` if it was.
    pub(super) fn forget(&mut self, event_type: &str) -> bool {
        self.changes += 1;
        let was_held = self.in_log.forget(event_type);
        self.in_store.forget(event_type) || was_held
    }

    /// Returns the range of the store to deliver next.
    pub(super) fn due(&self) -> Option<&DueRange> {
        self.in_store.due()
    }

    pub(super) fn delivered_through(&mut self, position: Position) {
        self.in_store.delivered_through(position.get());
        self.changes += 1;
    }

    /// Takes the next range of the log to deliver, as a type and the numbers of entries.
    pub(super) fn take_log_range(&mut self) -> Option<(String, std::ops::Range<u64>)> {
        let due = self.in_log.due()?.clone();
        self.in_log.delivered_through(due.through);
        Some((due.event_type, due.after..due.through))
    }

    /// Returns `true` if there is a change to save in the store.
    pub(super) const fn is_changed(&self) -> bool {
        self.changes != self.saved
    }

    /// Returns the types to save in the store, if they changed, and the number of the change.
    pub(super) fn unsaved(&self) -> Option<(GroupTypes, u64)> {
        self.is_changed().then(|| (self.in_store.clone(), self.changes))
    }

    /// Records that the store has the types up to this change.
    pub(super) const fn mark_saved(&mut self, change: u64) {
        self.saved = change;
    }
}

fn note_name(group: &Name) -> Name {
    Name::prefixed("types:", group)
}

/// Deletes the types that a store kept of a group.
pub(super) async fn forget_all(store: &dyn EventStore, group: &Name) -> Result<(), CheckpointError> {
    match store.notes() {
        Some(notes) => notes.delete_note(&note_name(group)).await,
        None => Ok(()),
    }
}

/// Loads the types that a store kept of a group with this checkpoint.
pub(super) async fn load(
    store: &dyn EventStore,
    group: &Name,
    checkpoint: Option<Position>,
) -> Result<GroupTypes, CheckpointError> {
    let Some(notes) = store.notes() else {
        return Ok(GroupTypes::default());
    };
    let mut types = match notes.load_note(&note_name(group)).await? {
        Some(text) => from_json(&text).map_err(|error| CheckpointError::new(group, error))?,
        None => GroupTypes::default(),
    };
    types.extend_to(checkpoint.unwrap_or(Position::START).get());
    Ok(types)
}

/// Saves the types of a group in the store.
pub(super) async fn save(store: &dyn EventStore, group: &Name, types: &GroupTypes) -> Result<(), CheckpointError> {
    let Some(notes) = store.notes() else {
        return Ok(());
    };
    let text = serde_json::to_string(types).map_err(|error| CheckpointError::new(group, error))?;
    notes.save_note(&note_name(group), &text).await
}

/// Returns the undecided types of a group that does not run yet; its other types are not announced.
pub(super) async fn undecided(
    store: &dyn EventStore,
    group: &Name,
    announced: &[Announced],
    (within, now): (Duration, u64),
) -> Result<Vec<SkippedBefore>, BoxError> {
    let checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
    let types = load(store, group, checkpoint).await?;
    let mut skipped = Vec::new();
    for (event_type, range) in types.undecided(announced, within, now) {
        let (after, through) = (Position::new(range.first.saturating_sub(1)), Position::new(range.last));
        let count = store.count_events(after, through, &of_type(&event_type)?).await?;
        let age = Duration::from_millis(now.saturating_sub(range.since));
        skipped.push(SkippedBefore { group: group.clone(), event_type, count, age });
    }
    Ok(skipped)
}

/// Announces in the store the types of a group that does not run yet; call it if none is [`undecided`].
pub(super) async fn announce(
    store: &dyn EventStore,
    group: &Name,
    announced: &[Announced],
    (within, now): (Duration, u64),
) -> Result<(), BoxError> {
    let checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
    let mut types = load(store, group, checkpoint).await?;
    let before = types.clone();
    types.announce(announced, within, now);
    if types != before {
        save(store, group, &types).await?;
    }
    Ok(())
}

/// A page of a range to deliver.
#[derive(Debug)]
pub(super) struct DueEvents {
    pub(super) events: Vec<RecordedEvent>,
    /// The page holds all events of the range up to here.
    pub(super) through: Position,
    /// The event that the store cannot read; the page holds no other event then.
    pub(super) unreadable: Option<Position>,
}

/// Forgets in the store that a group which does not run here announced a type; returns `true` if it had.
pub(super) async fn forget(store: &dyn EventStore, group: &Name, event_type: &str) -> Result<bool, CheckpointError> {
    let checkpoint = store.load_checkpoint(&checkpoint_name(group)).await?;
    let mut types = load(store, group, checkpoint).await?;
    let was_announced = types.forget(event_type);
    save(store, group, &types).await?;
    Ok(was_announced)
}

/// Reads the next events of a range, without those at `skipped` positions.
pub(super) async fn next_page(
    store: &dyn EventStore,
    due: &DueRange,
    skipped: &[Position],
) -> Result<DueEvents, BoxError> {
    let (after, through, filter) = (Position::new(due.after), Position::new(due.through), of_type(&due.event_type)?);
    let mut feed = read_around(store, after, through, &filter, skipped);
    match FeedBatch::read(&mut feed, PAGE_EVENTS, PAGE_BYTES).await {
        // events before a damaged one are delivered first; before any other error the page is read again
        Ok(FeedBatch { end: BatchEnd::Failed(error), .. }) if !matches!(error, ReadError::Corrupt { .. }) => {
            Err(error.into())
        }
        Ok(batch) => Ok(DueEvents { through: batch.through(through), events: batch.events, unreadable: None }),
        Err(error @ ReadError::Corrupt { .. }) => {
            drop(feed);
            let read = |through| read_around(store, after, through, &filter, skipped);
            let at = first_unreadable(read, after, through).await?;
            match store.count_events(Position::new(at.get() - 1), at, &filter).await? {
                // the group can pass exactly one damaged event, which gets a row
                1 => Ok(DueEvents { events: Vec::new(), through: at, unreadable: Some(at) }),
                _ => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Finds the position of the first event that a feed cannot read, by bisection: the error may lack the position.
async fn first_unreadable<'s>(
    read: impl Fn(Position) -> RecordStream<'s>,
    after: Position,
    through: Position,
) -> Result<Position, ReadError> {
    let (mut before, mut at) = (after.get(), through.get());
    while at - before > 1 {
        let middle = before + (at - before) / 2;
        match read(Position::new(middle)).next().await {
            None => before = middle,
            Some(Err(ReadError::Corrupt { .. })) => at = middle,
            // its row was repaired meanwhile: the next try reads it
            Some(Ok(_)) => return Err(ReadError::Unavailable("the feed changed during the search".into())),
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(Position::new(at))
}

fn of_type(event_type: &str) -> Result<FeedFilter, BoxError> {
    Ok(FeedFilter::all().event_types([Name::new("event type", event_type)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_range_is_saved_again_if_an_earlier_event_comes_late() {
        let mut types = AnnouncedTypes::default();
        let mut pass = |position: u64| {
            types.pass_unhandled("OrderShipped", EventLocation::Stored(Position::new(position)), 1);
            let unsaved = types.unsaved();
            if let Some((_, change)) = &unsaved {
                types.mark_saved(*change);
            }
            unsaved.and_then(|(types, _)| types.unhandled_from("OrderShipped"))
        };
        assert_eq!([20, 21, 15, 16, 25].map(&mut pass), [Some(20), None, Some(15), None, None]);
    }
}
