//! How far the relay has come, and how it fares.

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

/// How many message ids of the last published events are remembered for those who wait for them.
const RECENT_MESSAGE_IDS_MAX: usize = 1_024;

/// How the relay of an app fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Everything up to here is published. Where another process relays, it is what that one saved, about once a second.
    pub position: Position,
    /// The end of the store; `None` if it cannot be asked.
    pub head: Option<Position>,
    /// Whether this process relays; the others stand by.
    pub is_owner: bool,
    /// How long the oldest event that is not published has been stored, whichever process relays; zero if all are
    /// published, `None` if the store cannot be asked.
    #[serde(serialize_with = "shown::seconds")]
    pub lag: Option<Duration>,
    /// What keeps it from publishing for now: it tries again.
    pub trouble: Option<String>,
    /// What keeps it from publishing until somebody decides.
    #[serde(serialize_with = "shown::text")]
    pub stopped: Option<RelayError>,
    /// Since when it is in trouble or stopped.
    #[serde(serialize_with = "shown::time")]
    pub since: Option<OffsetDateTime>,
    /// How many events it skips, see [`App::skip_published_event`](crate::App::skip_published_event); `None` if the store
    /// cannot be asked.
    pub skipped: Option<u64>,
}

impl RelayStatus {
    /// How many events are not published yet, at most: positions have gaps. `None` if the store cannot be asked.
    #[must_use]
    pub fn lag_events(&self) -> Option<u64> {
        self.head.map(|head| head.get().saturating_sub(self.position.get()))
    }
}

/// How far the relay of this process has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayProgress {
    /// Everything up to here is published.
    pub(crate) position: Position,
    /// What the bus called the last events, by position.
    recent: VecDeque<(Position, MessageId)>,
    /// Whether this process relays at the moment.
    pub(crate) is_owner: bool,
    /// Why the relay does not publish at the moment.
    pub(crate) problem: Option<String>,
    /// Why it does not until somebody decides.
    pub(crate) stopped: Option<RelayError>,
    /// Since when it is in trouble or stopped.
    pub(crate) since: Option<OffsetDateTime>,
}

impl RelayProgress {
    /// Since when it does not publish, if so.
    pub(crate) fn since(&self) -> Option<OffsetDateTime> {
        self.since.filter(|_| self.problem.is_some() || self.stopped.is_some())
    }

    /// Notes since when it does not publish.
    fn update_since(&mut self, now: OffsetDateTime) {
        let is_bad = self.problem.is_some() || self.stopped.is_some();
        self.since = is_bad.then(|| self.since.unwrap_or(now));
    }

    /// What the bus called the event at `position`, if it was published lately.
    pub(crate) fn message_id(&self, position: Position) -> Option<MessageId> {
        let index = self.recent.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(self.recent[index].1.clone())
    }

    fn move_to(&mut self, position: Position) {
        // what is published again is called something else
        self.recent.retain(|(published, _)| *published <= position);
        // a stopped relay that is where it was may be stopped again by what comes next
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

/// Where a relay writes how far it has come and how it fares; the log gets what is news.
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

    /// A range was published.
    pub(super) fn record_published(&self, range: &FeedRange, ids: Vec<MessageId>) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            progress.add_published(range, ids);
            true
        });
    }

    /// The bus is at this position, whoever brought it there.
    pub(super) fn set_position(&self, position: Position) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            progress.move_to(position);
            true
        });
    }

    /// It did not work; it is logged once, until it works again.
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

    /// Everything is published.
    pub(super) fn set_caught_up(&self) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            let was_stopped = progress.stopped.take().is_some();
            progress.problem.take().is_some() || was_stopped
        });
    }

    /// Another process was seen to relay, `times` in a row. One that keeps at it has not stopped.
    pub(super) fn set_standby(&self, times: u32) {
        self.update_and_log_recovery("another process relays", |progress| {
            let was_stopped = times > 2 && progress.stopped.take().is_some();
            progress.problem.take().is_some() || was_stopped
        });
    }

    /// Changes what may end an outage; the log is told if it did, and how long it lasted.
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

    /// Whether only an operator could help when it was looked at last.
    pub(super) fn is_stopped(&self) -> bool {
        self.progress.borrow().stopped.is_some()
    }

    /// Whether it was stopped as the store went back, which the store itself remembers until somebody decides.
    pub(super) fn is_halted(&self) -> bool {
        matches!(self.progress.borrow().stopped, Some(RelayError::StoreBehindBus { .. }))
    }

    /// Only an operator can help.
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
        let board = RelayStatusCell::new(Name::from_static("bus"), 5.into(), SharedClock::SYSTEM);
        let stop = || {
            let (destination, reason) = (Name::from_static("bus"), "it is full".into());
            board.set_stopped(RelayError::Refused { destination, reason });
        };
        stop();
        board.set_position(5.into());
        assert!(board.is_stopped());
        board.set_position(6.into());
        assert!(!board.is_stopped());
        stop();
        board.set_caught_up();
        assert!(!board.is_stopped());
    }
}
