//! Events that a group is to be delivered and that the store cannot read: another program wrote or damaged their rows.
//!
//! Such an event is before the group's checkpoint and has a row among the unfinished deliveries, so a restart finds it again.
//! Only the event itself stands still: of which aggregate it is cannot be told, so the group handles everything else, in
//! order. It is tried again every minute, and at each start; an operator ends it with
//! [`App::skip_published_event`](crate::App::skip_published_event).

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{DESTINATION, Shared, consume::event_at};
use crate::{
    domain::{clock::SharedClock, name::Name, stream::Position},
    port::{EventStore, SkipsError, Tries, UnreadableEvents, activity::text, relay_to, skipped_positions},
};

/// How often it is looked whether an operator has them skipped, and whether they can be read.
const LOOK: Duration = Duration::from_secs(1);
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The unreadable events of one group.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    events: BTreeMap<Position, Tries>,
    /// Since when this process knows of one.
    since: Option<OffsetDateTime>,
}

impl Unreadable {
    pub(super) fn add(&mut self, position: Position, tries: Tries, now: OffsetDateTime) {
        self.events.insert(position, tries);
        self.since.get_or_insert(now);
    }

    pub(super) fn remove(&mut self, position: Position) -> Option<Tries> {
        let removed = self.events.remove(&position);
        if self.events.is_empty() {
            self.since = None;
        }
        removed
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn contains(&self, position: Position) -> bool {
        self.events.contains_key(&position)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.events.len() as u64
    }

    fn positions(&self) -> Vec<Position> {
        self.events.keys().copied().collect()
    }

    /// What health says of them.
    pub(super) fn report(&self, group: &Name) -> Option<UnreadableEvents> {
        let (first, _) = self.events.first_key_value()?;
        let since = self.since.map(text).unwrap_or_default();
        Some(UnreadableEvents { group: group.to_string(), count: self.count(), first: *first, since })
    }
}

/// When the unreadable events of a group were looked after.
#[derive(Debug)]
pub(super) struct Rounds {
    clock: SharedClock,
    looked: Option<Instant>,
    tried: Option<Instant>,
}

impl Rounds {
    pub(super) const fn new(clock: SharedClock) -> Self {
        Self { clock, looked: None, tried: None }
    }

    /// Lets go of the events that an operator has skipped, and has those delivered that can be read again.
    pub(super) async fn look(&mut self, shared: &Shared, store: &dyn EventStore, group: &Name) {
        if shared.log().cursor(group).unreadable.is_empty() || !self.is_due(LOOK, |rounds| &mut rounds.looked) {
            return;
        }
        match skipped_by_operators(store).await {
            Ok(skipped) => {
                let mut log = shared.log();
                for position in skipped {
                    if log.cursor(group).skip_unreadable(position) {
                        tracing::warn!(%group, %position, "an event that cannot be read is skipped");
                    }
                }
            }
            Err(error) => tracing::debug!(%group, %error, "what is skipped is not known"),
        }
        if !self.is_due(TRY_AGAIN, |rounds| &mut rounds.tried) {
            return;
        }
        let positions = shared.log().cursor(group).unreadable.positions();
        for position in positions {
            let Ok(Some(event)) = event_at(store, position).await else {
                continue;
            };
            let mut log = shared.log();
            if let Some(tries) = log.cursor(group).unreadable.remove(position) {
                tracing::info!(%group, %position, "an event can be read again and is delivered");
                log.restore(group, &event, tries);
            }
        }
        // the other groups pass over what was read for this one
        shared.published.send_replace(());
    }

    fn is_due(&mut self, every: Duration, last: impl Fn(&mut Self) -> &mut Option<Instant>) -> bool {
        let clock = self.clock.clone();
        let last = last(self);
        let is_due = last.is_none_or(|last| clock.elapsed(last) >= every);
        if is_due {
            *last = Some(clock.instant());
        }
        is_due
    }
}

/// The positions that are neither published nor delivered, as an operator said so.
pub(super) async fn skipped_by_operators(store: &dyn EventStore) -> Result<Vec<Position>, SkipsError> {
    skipped_positions(store, &relay_to(&DESTINATION)).await
}
