//! The status of the relay: written by the relay of this process, read by the app, whichever process is the leader.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
    port::{CheckpointError, EventBus, EventStore, MessageId},
    support::{relay_to, skipped_positions},
};

/// Number of message ids of the last published events that the relay remembers for waiting callers.
const RECENT_MESSAGE_IDS_MAX: usize = 1_024;

/// Interval at which a waiting caller polls the checkpoint of a relay in a different process.
const POSITION_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Status of an app's relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelayStatus {
    /// All events up to this position are published. If a different process relays, it saves the position about once a
    /// second.
    pub position: Position,
    /// The end of the store; `None` if it cannot be reached.
    pub head: Option<Position>,
    /// Set if this process relays; all other processes stand by.
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
    /// The bus has lost its data while this process relayed, and holds no event up to this position; until the relay
    /// publishes again from an earlier one, see [`App::republish`](crate::App::republish).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_through: Option<Position>,
    /// Number of events that it skips, see [`App::skip_published_event`](crate::App::skip_published_event); `None` if
    /// the store cannot be reached.
    pub skipped: Option<u64>,
}

impl RelayStatus {
    /// Returns the number of unpublished events at most; since positions have gaps, there may be fewer. `None` if the
    /// store cannot be reached.
    #[must_use]
    pub fn lag_events(&self) -> Option<u64> {
        self.head.map(|head| head.get().saturating_sub(self.position.get()))
    }
}

/// Progress of the relay of this process: the value that [`RelayStatusCell`] writes and [`RelayView`] reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayProgress {
    /// All events up to this position are published.
    pub(crate) position: Position,
    /// Message ids of the last published events, by position.
    recent: VecDeque<(Position, MessageId)>,
    /// The number of events that this process has published.
    pub(crate) published: u64,
    /// Set while this process relays.
    pub(crate) is_owner: bool,
    /// Set once a different process holds the lease, and when this one acquires it, until this one learns a position from
    /// the bus: only the checkpoint counts then, as a leader may have moved it, forward or back to publish again.
    is_unconfirmed: bool,
    /// The error that keeps the relay from publishing for now.
    pub(crate) problem: Option<String>,
    /// The error that keeps the relay from publishing until an operator resolves it.
    pub(crate) stopped: Option<RelayError>,
    /// Time of the first such error; set and cleared together with them.
    pub(crate) since: Option<OffsetDateTime>,
    /// The bus holds no event up to this position, because it has lost its data.
    pub(crate) lost_through: Option<Position>,
}

impl RelayProgress {
    /// Returns the position up to which all events are published; `None` if only a different process knows it, or knew it.
    fn known_position(&self) -> Option<Position> {
        (!self.is_unconfirmed).then_some(self.position)
    }

    /// Returns `true` if this process relays and knows the position: the checkpoint says no more.
    const fn is_leading(&self) -> bool {
        self.is_owner && !self.is_unconfirmed
    }

    /// Returns the message id of the event at `position`, if it was published lately.
    pub(crate) fn message_id(&self, position: Position) -> Option<MessageId> {
        self.known_position()?;
        let index = self.recent.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(self.recent[index].1.clone())
    }

    fn move_to(&mut self, position: Position) {
        // an event that is published again gets a new message id
        self.recent.retain(|(published, _)| *published <= position);
        // the next event may stop a relay again that has not moved: it stays stopped, and the log says it once
        self.stopped.take_if(|_| position != self.position);
        self.lost_through.take_if(|lost_through| position < *lost_through);
        (self.position, self.is_unconfirmed) = (position, false);
        self.problem = None;
    }

    fn add_published(&mut self, range: &FeedRange, ids: Vec<MessageId>) {
        self.move_to(range.through);
        self.published += range.events.len() as u64;
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

    /// Returns the view of this relay, for the app in whose process it runs.
    pub(super) fn view(&self, store: &Arc<dyn EventStore>, bus: &dyn EventBus) -> RelayView {
        RelayView::new(store, bus, Some(self.progress.subscribe()))
    }

    pub(super) fn destination(&self) -> &Name {
        &self.destination
    }

    pub(super) fn position(&self) -> Position {
        self.progress.borrow().position
    }

    /// Returns the position; `None` until the bus has told it to this leader.
    pub(super) fn known_position(&self) -> Option<Position> {
        self.progress.borrow().known_position()
    }

    /// Records that this process has acquired the lease.
    pub(super) fn begin_leadership(&self) {
        self.progress.send_modify(|progress| (progress.is_owner, progress.is_unconfirmed) = (true, true));
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

    /// Sets the position to the bus's, whichever process has moved it.
    pub(super) fn set_position(&self, position: Position) {
        self.update_and_log_recovery("relay publishes again", |progress| {
            progress.move_to(position);
            true
        });
    }

    /// Records an error that the relay retries; logs the first one until the relay publishes again.
    pub(super) fn set_problem(&self, error: &BoxError) {
        let (destination, error) = (&self.destination, ErrorLine(&**error).to_string());
        // a stopped relay is in the log already
        let is_known = {
            let now = self.progress.borrow();
            now.problem.is_some() || now.stopped.is_some()
        };
        if is_known {
            tracing::debug!(%destination, %error, "relay still cannot publish");
        } else {
            tracing::warn!(%destination, %error, "relay cannot publish, trying again");
        }
        self.progress.send_modify(|progress| {
            progress.problem = Some(error);
            progress.since.get_or_insert_with(|| self.clock.now());
        });
    }

    /// Records that the bus has lost all events up to a position.
    pub(super) fn set_lost_through(&self, position: Position) {
        self.progress.send_modify(|progress| progress.lost_through = Some(position));
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
            // a leadership that panicked has left it set
            let was_owner = std::mem::take(&mut progress.is_owner);
            progress.is_unconfirmed = true;
            progress.problem.take().is_some() || was_stopped || was_owner
        });
    }

    /// Applies a change that may end an outage; logs the end and how long the outage lasted.
    fn update_and_log_recovery(&self, message: &'static str, change: impl FnOnce(&mut RelayProgress) -> bool) {
        let mut ended_since = None;
        self.progress.send_if_modified(|progress| {
            let changed = change(progress);
            if progress.problem.is_none() && progress.stopped.is_none() {
                ended_since = progress.since.take();
            }
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

    /// Records an error that only an operator can resolve. An outage before it is over: the relay got that far.
    pub(super) fn set_stopped(&self, error: RelayError) {
        self.progress.send_if_modified(|progress| {
            let is_news = progress.stopped.as_ref() != Some(&error);
            if is_news && progress.stopped.is_none() {
                tracing::error!(destination = %self.destination, %error, "relay stopped");
            }
            progress.stopped = Some(error);
            progress.problem = None;
            progress.since.get_or_insert_with(|| self.clock.now());
            is_news
        });
    }
}

/// The relay of a destination, as seen from one process.
#[derive(Clone)]
pub(crate) struct RelayView {
    store: Arc<dyn EventStore>,
    /// The relay's name: of the checkpoint that the leader saves about once a second, and as a reader that skips events.
    role: Name,
    /// The progress of the relay of this process; `None` if this process has no relay.
    progress: Option<watch::Receiver<RelayProgress>>,
}

impl RelayView {
    /// Returns the view of a process without a relay.
    pub(crate) fn for_bus(store: &Arc<dyn EventStore>, bus: &dyn EventBus) -> Self {
        Self::new(store, bus, None)
    }

    fn new(store: &Arc<dyn EventStore>, bus: &dyn EventBus, progress: Option<watch::Receiver<RelayProgress>>) -> Self {
        Self { store: Arc::clone(store), role: relay_to(bus.destination()), progress }
    }

    /// Reads the progress of the relay of this process; the default if there is none.
    pub(crate) fn read<T: Default>(&self, read: impl FnOnce(&RelayProgress) -> T) -> T {
        self.progress.as_ref().map(|progress| read(&progress.borrow())).unwrap_or_default()
    }

    /// Returns the position up to which all events are published, as far as this process can tell.
    pub(crate) async fn position(&self) -> Position {
        self.load_position().await.unwrap_or_else(|_| self.read(|now| now.position))
    }

    /// Loads the position up to which all events are published.
    pub(crate) async fn load_position(&self) -> Result<Position, CheckpointError> {
        let (known, is_leading) = self.read(|now| (now.known_position(), now.is_leading()));
        let saved = if is_leading { None } else { self.store.load_checkpoint(&self.role).await? };
        Ok(known.max(saved).unwrap_or_else(|| self.read(|now| now.position)))
    }

    /// Waits until all events up to `wanted` are published. Returns `false` if the relay ended, or has stopped until an
    /// operator resolves the error.
    pub(crate) async fn wait_for_position(&mut self, wanted: Position, clock: &SharedClock) -> bool {
        loop {
            let (known, is_leading, is_stopped) =
                self.read(|now| (now.known_position(), now.is_leading(), now.stopped.is_some()));
            let has_saved =
                async || matches!(self.store.load_checkpoint(&self.role).await, Ok(Some(saved)) if saved >= wanted);
            if known.unwrap_or_default() >= wanted || !is_leading && has_saved().await {
                return true;
            }
            if is_stopped {
                return false;
            }
            let Some(progress) = &mut self.progress else {
                clock.sleep(POSITION_POLL_INTERVAL).await;
                continue;
            };
            // the relay of this process wakes the caller; the relay of a different one only saves its checkpoint
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    return progress.borrow().known_position().unwrap_or_default() >= wanted;
                },
                () = clock.sleep(POSITION_POLL_INTERVAL), if !is_leading => {}
            }
        }
    }

    /// Returns how long the first event after `position` has been stored.
    async fn lag(&self, position: Position, clock: &SharedClock) -> Option<Duration> {
        let waits_since = self.store.first_recorded_after(position).await.ok()?;
        // the clock of the process that recorded it may be ahead
        Some(waits_since.map_or(Duration::ZERO, |since| (clock.now() - since).try_into().unwrap_or_default()))
    }

    pub(crate) async fn status(&self, clock: &SharedClock) -> RelayStatus {
        let (position, head) = (self.position().await, self.store.head().await.ok());
        let lag = self.lag(position, clock).await;
        let skipped = skipped_positions(&*self.store, &self.role).await.ok().map(|skips| skips.len() as u64);
        let now = self.read(RelayProgress::clone);
        RelayStatus {
            position,
            head,
            is_owner: now.is_owner,
            lag,
            trouble: now.problem,
            stopped: now.stopped,
            since: now.since,
            lost_through: now.lost_through,
            skipped,
        }
    }
}

/// Returns `true` if the bus itself confirms that all events up to `wanted` are published, or keeps no position: a
/// relay notices only with its next step that an operator has set the position back.
pub(crate) async fn is_published_on_bus(store: &dyn EventStore, bus: &dyn EventBus, wanted: Position) -> bool {
    let Some(target) = bus.relay_target() else {
        return true;
    };
    let Ok(store) = store.store_id().await else {
        return false;
    };
    let record = target.published_position(store).await;
    record.is_ok_and(|record| record.is_some_and(|record| record.position >= wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{record::NewEvent, stream::StreamId},
        memory::InMemoryEventStore,
        testkit::LossyBus,
    };

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

    /// The other leader may have gone back to publish again, and the bus may be away when this process follows it.
    #[tokio::test]
    async fn a_process_that_stood_by_knows_no_position_until_it_asked_the_bus() {
        let (store, bus): (Arc<dyn EventStore>, _) = (Arc::new(InMemoryEventStore::new()), LossyBus::new());
        let status = RelayStatusCell::new(bus.destination().clone(), 4.into(), SharedClock::SYSTEM);
        let view = status.view(&store, &bus);
        status.set_owner(true);
        status.progress.send_modify(|progress| publish(progress, 5, "old"));
        assert_eq!(view.load_position().await.unwrap(), 5);
        assert_eq!(view.read(|now| now.message_id(5.into())), Some(MessageId::new("old")));

        status.set_owner(false);
        status.set_standby(1);
        store.save_checkpoint(&relay_to(bus.destination()), 2.into()).await.unwrap();
        status.set_owner(true);
        assert_eq!(view.load_position().await.unwrap(), 2);
        assert_eq!(view.read(|now| now.message_id(5.into())), None, "the other leader has published the event again");
        status.set_position(3.into());
        assert_eq!(view.load_position().await.unwrap(), 3);
    }

    #[test]
    fn an_outage_lasts_from_its_first_error_until_none_is_left() {
        let status = RelayStatusCell::new(Name::from_static("bus"), 5.into(), SharedClock::SYSTEM);
        let since = || status.progress.borrow().since;
        status.set_problem(&"away".into());
        let began = since();
        assert!(began.is_some());
        status.set_stopped(RelayError::Refused { destination: Name::from_static("bus"), reason: "full".into() });
        status.set_position(5.into());
        assert_eq!(since(), began, "it is still stopped");
        status.set_caught_up();
        assert_eq!(since(), None);
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
