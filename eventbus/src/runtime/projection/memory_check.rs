//! Whether the store still holds what state in memory includes: an older copy may have replaced it while the process ran on.
//!
//! Invariant: the event that is known was read, or found to be held, from the store that the state was filled from. So if the
//! store holds it, the two have the same events up to there.

use super::event_handling::FeedStop;
use crate::{
    domain::{metadata::EventId, stream::Position},
    port::{EventStore, ReadError},
    runtime::restore_watch::{RestoreWatch, holds_event},
};

/// A known event further behind the position than this is replaced by the one at the position, so that little is read again.
const READ_AGAIN_MAX: u64 = 10_000;

/// What is known of state in memory and its store. It outlives the feeders of a process.
pub(super) struct MemoryCheck {
    last_known: LastKnown,
    /// The generation of the progress for which it is known.
    generation: u64,
    watch: RestoreWatch,
}

/// The last event that the state includes, or a later one of another type that its feed has passed.
#[derive(Debug, Clone, Copy)]
enum LastKnown {
    /// The state includes no event.
    None,
    Event(Position, EventId),
    /// A rebuild, or a former task, has filled the state.
    Unknown,
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// No older copy has replaced the store.
    Same,
    /// The store may be another one, and has the same events up to here: later ones may be others.
    SameUpTo(Position),
    /// The store lacks events that the state includes.
    WentBack,
}

impl MemoryCheck {
    /// Creates the check of state at a position.
    pub(super) fn new(store: &dyn EventStore, position: Position) -> Self {
        let last_known = if position == Position::START { LastKnown::None } else { LastKnown::Unknown };
        Self { last_known, generation: 0, watch: RestoreWatch::new(store) }
    }

    /// Notes the last event that the state includes.
    pub(super) const fn note_folded(&mut self, position: Position, event_id: EventId) {
        self.last_known = LastKnown::Event(position, event_id);
    }

    /// Notes that the progress has this generation, and that what is known holds for it too.
    pub(super) const fn keep_for(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Compares the state at a position with a store whose feed ends at `head`, if an older copy may have replaced it.
    ///
    /// # Errors
    /// The error of the store.
    pub(super) async fn compare(
        &mut self,
        store: &dyn EventStore,
        (position, generation): (Position, u64),
        (head, has_failed): (Position, bool),
    ) -> Result<Compared, FeedStop> {
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.last_known = LastKnown::Unknown;
        }
        if has_failed {
            self.watch.note_failure();
        }
        self.watch.note_head(head);
        self.watch.note_restores(store);
        let is_unknown = matches!(self.last_known, LastKnown::Unknown);
        if is_unknown || (!self.watch.is_check_due() && self.is_far_from(position)) {
            let found = event_at(store, position).await?;
            self.watch.note_restores(store);
            if let Some(event_id) = found.filter(|_| is_unknown || !self.watch.is_check_due()) {
                self.last_known = LastKnown::Event(position, event_id);
            }
        }
        if !self.watch.is_check_due() {
            return Ok(Compared::Same);
        }
        let compared = match self.last_known {
            LastKnown::None => Compared::SameUpTo(Position::START),
            LastKnown::Event(position, event_id) => match holds_event(store, position, event_id).await? {
                true => Compared::SameUpTo(position),
                false => Compared::WentBack,
            },
            LastKnown::Unknown => Compared::Same,
        };
        self.watch.mark_checked();
        Ok(compared)
    }

    fn is_far_from(&self, position: Position) -> bool {
        let known = match self.last_known {
            LastKnown::Event(known, _) => known,
            LastKnown::None | LastKnown::Unknown => Position::START,
        };
        position.get().saturating_sub(known.get()) > READ_AGAIN_MAX
    }
}

/// Returns the id of the event at a position; `None` if there is none, or it cannot be read.
async fn event_at(store: &dyn EventStore, position: Position) -> Result<Option<EventId>, ReadError> {
    match store.read_events_at(&[position]).await.into_iter().next() {
        Some(Ok(event)) => Ok(event.map(|event| event.metadata().event_id())),
        None | Some(Err(ReadError::Corrupt { .. })) => Ok(None),
        Some(Err(error)) => Err(error),
    }
}
