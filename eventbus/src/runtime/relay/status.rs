//! Progress and status of the relay.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{RelayError, range::FeedRange};
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorLine},
        name::Name,
        record::RecordedEvent,
        shown::{self, lasted},
        stream::Position,
    },
    port::MessageId,
};

/// Number of message ids of the last published events that the relay remembers for waiting callers.
const RECENT_MESSAGE_IDS_MAX: usize = 1_024;

/// Status of an app's relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelayStatus {
    /// All events up to this position are published. If a different process relays, it saves this about once a second.
    pub position: Position,
    /// The end of the store; `None` if it cannot be reached.
    pub head: Option<Position>,
    /// Set if this process relays; the rest stand by.
    pub is_owner: bool,
    /// Time since the oldest unpublished event was stored, whichever process relays; zero if all are published, `None`
    /// if the store cannot be reached.
    #[serde(serialize_with = "shown::seconds")]
    pub lag: Option<Duration>,
    /// The error that keeps the relay from publishing for now: it retries.
    pub trouble: Option<String>,
    /// The error that keeps the relay from publishing until an operator resolves it.
    #[serde(serialize_with = "shown::text")]
    pub stopped: Option<RelayError>,
    /// Time since which the relay does not publish for either reason.
    #[serde(serialize_with = "shown::time")]
    pub since: Option<OffsetDateTime>,
    /// Number of events that it skips, see [`App::skip_published_event`](crate::App::skip_published_event); `None` if
    /// the store cannot be reached.
    pub skipped: Option<u64>,
}

impl RelayStatus {
    /// Returns the highest possible number of unpublished events: positions have gaps. `None` if the store cannot be
    /// reached.
    #[must_use]
    pub fn lag_events(&self) -> Option<u64> {
        self.head.map(|head| head.get().saturating_sub(self.position.get()))
    }
}

/// Progress of the relay of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayProgress {
    /// All events up to this position are published.
    pub(crate) position: Position,
    /// Message ids of the last published events, by position.
    recent: VecDeque<(Position, MessageId)>,
    /// Set while this process relays.
    pub(crate) is_owner: bool,
    /// The error that keeps the relay from publishing for now.
    pub(crate) problem: Option<String>,
    /// The error that keeps the relay from publishing until an operator resolves it.
    pub(crate) stopped: Option<RelayError>,
    /// Time of the first such error.
    pub(crate) since: Option<OffsetDateTime>,
}

impl RelayProgress {
    /// Returns since when it does not publish; `None` if it does.
    pub(crate) fn since(&self) -> Option<OffsetDateTime> {
        self.since.filter(|_| self.problem.is_some() || self.stopped.is_some())
    }

    /// Sets since when it does not publish.
    fn update_since(&mut self, now: OffsetDateTime) {
        let is_bad = self.problem.is_some() || self.stopped.is_some();
        self.since = is_bad.then(|| self.since.unwrap_or(now));
    }

    /// Returns the message id of the event at `position`, if it was published lately.
    pub(crate) fn message_id(&self, position: Position) -> Option<MessageId> {
        let index = self.recent.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(self.recent[index].1.clone())
    }

    fn move_to(&mut self, position: Position) {
        // an event that is published again gets a new message id
        self.recent.retain(|(published, _)| *published <= position);
        // the next event may stop a relay again that has not moved: it stays stopped, and the log says it once
        self.stopped.take_if(|_| position != self.position);
        self.position = position;
        self.problem = None;
        self.since.take_if(|_| self.stopped.is_none());
    }

    fn add_published(&mut self, range: &FeedRange, ids: Vec<MessageId>) {
        self.move_to(range.through);
        if ids.len() == range.events.len() {
            let positions = range.events.iter().filter_map(RecordedEvent::position);
            self.recent.extend(positions.zip(ids));
            self.recent.drain(..self.recent.len().saturating_sub(RECENT_MESSAGE_IDS_MAX));
        }
    }
}

/// The relay's status: written by the relay, watched by the app, and logged when it changes.
pub(super) struct RelayStatusCell {
    destination: Name,
    progress: watch::Sender<RelayProgress>,
    clock: SharedClock,
}

impl RelayStatusCell {
    pub(super) fn new(destination: Name, position: Position, clock: SharedClock) -> Self {
        let progress = watch::Sender::new(RelayProgress { position, ..RelayProgress::default() });
        Self { destination, progress, clock }
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<RelayProgress> {
        self.progress.subscribe()
    }

    pub(super) fn destination(&self) -> &Name {
        &self.destination
    }

    pub(super) fn position(&self) -> Position {
        self.progress.borrow().position
    }

    pub(super) fn set_owner(&self, is_owner: bool) {
        self.progress.send_modify(|progress| progress.is_owner = is_owner);
    }

    /// Records that a range was published.
    pub(super) fn record_published(&self, range: &FeedRange, ids: Vec<MessageId>) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            progress.add_published(range, ids);
            true
        });
    }

    /// Sets the position to that of the bus, whichever process has moved it.
    pub(super) fn set_position(&self, position: Position) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            progress.move_to(position);
            true
        });
    }

    /// Records an error that the relay retries; logs the first one until the relay publishes again.
    pub(super) fn set_problem(&self, error: &BoxError) {
        let (destination, error) = (&self.destination, ErrorLine(&**error).to_string());
        if self.progress.borrow().problem.is_some() {
            tracing::debug!(%destination, %error, "relay still cannot publish");
        } else {
            tracing::warn!(%destination, %error, "relay cannot publish, trying again");
        }
        self.progress.send_modify(|progress| {
            progress.since = progress.since();
            progress.problem = Some(error);
            progress.update_since(self.clock.now());
        });
    }

    /// Records that all events are published.
    pub(super) fn set_caught_up(&self) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            let was_stopped = progress.stopped.take().is_some();
            progress.problem.take().is_some() || was_stopped
        });
    }

    /// Records that a different process held the lease, `times` in a row. One that keeps it publishes: a stopped
    /// process that retries holds it for a moment only.
    pub(super) fn set_standby(&self, times: u32) {
        self.update_and_log_recovery("another process relays", |progress| {
            let was_stopped = times > 2 && progress.stopped.take().is_some();
            progress.problem.take().is_some() || was_stopped
        });
    }

    /// Applies a change that may end an outage; logs the end and how long the outage lasted.
    fn update_and_log_recovery(&self, message: &'static str, change: impl FnOnce(&mut RelayProgress) -> bool) {
        let mut ended_since = None;
        self.progress.send_if_modified(|progress| {
            let since = progress.since();
            let changed = change(progress);
            ended_since = since.filter(|_| progress.since().is_none());
            changed
        });
        if let Some(since) = ended_since {
            let lasted = lasted(since, self.clock.now());
            tracing::info!(destination = %self.destination, ?lasted, "{message}");
        }
    }

    /// Returns `true` if the last attempt ended with an error that only an operator can resolve.
    pub(super) fn is_stopped(&self) -> bool {
        self.progress.borrow().stopped.is_some()
    }

    /// Returns `true` if the relay stopped because the store went back; the store keeps that until an operator decides.
    pub(super) fn is_halted(&self) -> bool {
        matches!(self.progress.borrow().stopped, Some(RelayError::StoreBehindBus { .. }))
    }

    /// Records an error that only an operator can resolve.
    pub(super) fn set_stopped(&self, error: RelayError) {
        self.progress.send_if_modified(|progress| {
            let is_news = progress.stopped.as_ref() != Some(&error);
            if is_news && progress.stopped.is_none() {
                tracing::error!(destination = %self.destination, %error, "relay stopped");
            }
            progress.since = progress.since();
            progress.stopped = Some(error);
            progress.update_since(self.clock.now());
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{record::NewEvent, stream::StreamId};

    fn publish(progress: &mut RelayProgress, number: u64, id: &str) {
        let stream = StreamId::parse("Order", "1").unwrap();
        let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
        let event = event.recorded_as(stream, number.into(), Some(number.into()));
        let range =
            FeedRange { after: (number - 1).into(), through: number.into(), events: vec![event], is_full: false };
        progress.add_published(&range, vec![MessageId::new(id)]);
    }

    #[test]
    fn only_the_last_message_ids_are_remembered() {
        let mut progress = RelayProgress::default();
        for number in 1..=3_000 {
            publish(&mut progress, number, &number.to_string());
        }
        let id = |number| progress.message_id(Position::new(number));
        assert_eq!(id(3_000), Some(MessageId::new("3000")));
        assert_eq!((id(1_000), progress.recent.len()), (None, RECENT_MESSAGE_IDS_MAX));
    }

    #[test]
    fn what_is_published_again_is_known_by_its_new_id() {
        let mut progress = RelayProgress::default();
        for number in 1..=4 {
            publish(&mut progress, number, "old");
        }
        progress.move_to(2.into());
        assert_eq!(progress.message_id(3.into()), None);
        publish(&mut progress, 3, "new");
        let id = |number: u64| progress.message_id(number.into());
        assert_eq!((id(2), id(3)), (Some(MessageId::new("old")), Some(MessageId::new("new"))));
    }

    #[test]
    fn a_relay_stays_stopped_while_it_looks_and_is_where_it_was() {
        let status = RelayStatusCell::new(Name::from_static("bus"), 5.into(), SharedClock::SYSTEM);
        let stop = || {
            let (destination, reason) = (Name::from_static("bus"), "it is full".into());
            status.set_stopped(RelayError::Refused { destination, reason });
        };
        stop();
        status.set_position(5.into());
        assert!(status.is_stopped());
        status.set_position(6.into());
        assert!(!status.is_stopped());
        stop();
        status.set_caught_up();
        assert!(!status.is_stopped());
    }
}
