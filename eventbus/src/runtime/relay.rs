//! The relay: the one publisher of what a store holds.
//!
//! Reads the feed after its position and publishes it in order; a save only wakes it, so a bus outage delays handlers
//! but never fails a save.
//!
//! Keep: publish, then move the position. A crash between the two repeats events; the other way round would lose them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::feed::FeedWatch;
use crate::{
    domain::{error::BoxError, name::Name, record::RecordedEvent, stream::Position},
    port::{EventBus, EventStore, MessageId},
};

/// At most this much is published by one call: about a millisecond of a busy Redis.
const MAX_EVENTS: usize = 256;
const MAX_BYTES: usize = 256 * 1024;

/// How many message ids of the last published events are remembered for those who wait for them.
const REMEMBERED: usize = 1_024;

/// The checkpoint in the store that says how far a destination was fed.
pub(crate) fn checkpoint_name(destination: &Name) -> Name {
    Name::prefixed("relay:", destination)
}

/// How far the relay has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct RelayProgress {
    /// Everything up to here is published.
    pub(crate) position: Position,
    /// What the bus called the last events.
    recent: VecDeque<(Position, MessageId)>,
    /// Why the relay does not publish at the moment.
    pub(crate) trouble: Option<String>,
    /// Why it gave up: only an operator can help.
    pub(crate) stopped: Option<&'static str>,
}

impl RelayProgress {
    /// What the bus called the event at `position`, if it was published lately.
    pub(crate) fn message_id(&self, position: Position) -> Option<MessageId> {
        let index = self.recent.binary_search_by_key(&position, |(position, _)| *position).ok()?;
        Some(self.recent[index].1.clone())
    }

    fn published(&mut self, events: &[RecordedEvent], ids: Vec<MessageId>, through: Position) {
        let positions = events.iter().filter_map(RecordedEvent::position);
        self.recent.extend(positions.zip(ids));
        self.recent.drain(..self.recent.len().saturating_sub(REMEMBERED));
        self.position = through;
        self.trouble = None;
    }
}

/// Publishes a store's feed to a bus.
pub(crate) struct Relay {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    /// `None` for a bus that forgets: its groups keep their own progress in the store.
    checkpoint: Option<Name>,
    progress: watch::Sender<RelayProgress>,
    /// Whether someone else was seen to move the checkpoint.
    has_rival: AtomicBool,
}

impl Relay {
    /// Finds out from where the bus needs the feed.
    ///
    /// Call it after the handlers are subscribed: a bus that forgets goes back to its slowest group.
    pub(crate) async fn prepare(store: Arc<dyn EventStore>, bus: Arc<dyn EventBus>) -> Result<Self, BoxError> {
        let resumed = bus.resume_from(Arc::new(Arc::clone(&store))).await?;
        let checkpoint = bus.is_durable().then(|| checkpoint_name(bus.destination()));
        let position = match (&checkpoint, resumed) {
            (Some(name), _) => store.load_checkpoint(name).await?.unwrap_or(Position::START),
            (None, Some(position)) => position,
            (None, None) => store.head().await?,
        };
        let progress = watch::Sender::new(RelayProgress { position, ..RelayProgress::default() });
        Ok(Self { store, bus, checkpoint, progress, has_rival: AtomicBool::new(false) })
    }

    pub(crate) fn progress(&self) -> watch::Receiver<RelayProgress> {
        self.progress.subscribe()
    }

    /// Publishes until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut feed = FeedWatch::new(&self.store);
        loop {
            let more = match self.publish_next().await {
                Ok(Step::Published) => {
                    feed.made_progress();
                    !cancel.is_cancelled()
                }
                Ok(Step::CaughtUp) => {
                    self.recovered();
                    feed.idle(&cancel).await
                }
                Err(error) => {
                    self.report(&error, feed.is_failing());
                    feed.failed(&cancel).await
                }
            };
            if !more {
                return;
            }
        }
    }

    async fn publish_next(&self) -> Result<Step, BoxError> {
        let after = self.progress.borrow().position;
        let head = self.store.head().await?;
        if head <= after {
            return Ok(Step::CaughtUp);
        }
        let (events, through) = self.next_range(after, head).await?;
        let ids = self.bus.publish_feed(&events).await?;
        self.advance(&events, ids, through).await
    }

    /// The next events, and the position up to which they are everything.
    async fn next_range(&self, after: Position, head: Position) -> Result<(Vec<RecordedEvent>, Position), BoxError> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        let mut feed = self.store.read_all(after);
        while let Some(record) = feed.try_next().await? {
            bytes += record.payload().len();
            events.push(record);
            if events.len() == MAX_EVENTS || bytes >= MAX_BYTES {
                let through = events.last().and_then(RecordedEvent::position).unwrap_or(after);
                return Ok((events, through));
            }
        }
        // the feed ended: nothing will appear any more up to the head asked for before
        let last = events.last().and_then(RecordedEvent::position).unwrap_or(after);
        Ok((events, last.max(head)))
    }

    async fn advance(
        &self,
        events: &[RecordedEvent],
        ids: Vec<MessageId>,
        through: Position,
    ) -> Result<Step, BoxError> {
        if let Some(name) = &self.checkpoint {
            self.look_for_rival(name).await?;
            self.store.save_checkpoint(name, through).await?;
        }
        self.progress.send_modify(|progress| progress.published(events, ids, through));
        Ok(Step::Published)
    }

    /// Warns once if the checkpoint is not where it was left. After an error it may be ours that was thought lost.
    async fn look_for_rival(&self, name: &Name) -> Result<(), BoxError> {
        if self.has_rival.load(Ordering::Relaxed) || self.progress.borrow().trouble.is_some() {
            return Ok(());
        }
        let stored = self.store.load_checkpoint(name).await?;
        if stored > Some(self.progress.borrow().position) {
            self.has_rival.store(true, Ordering::Relaxed);
            tracing::warn!(
                destination = %self.bus.destination(),
                "another app relays this store to the same destination, so events are published twice; all but one say \
                 `.without_relay()`"
            );
        }
        Ok(())
    }

    fn report(&self, error: &BoxError, repeated: bool) {
        let (destination, error) = (self.bus.destination(), crate::domain::error::Chain(&**error).to_string());
        if repeated {
            tracing::debug!(%destination, %error, "relay still cannot publish");
        } else {
            tracing::warn!(%destination, %error, "relay cannot publish, trying again");
        }
        self.progress.send_modify(|progress| progress.trouble = Some(error));
    }

    fn recovered(&self) {
        self.progress.send_if_modified(|progress| progress.trouble.take().is_some());
    }
}

enum Step {
    Published,
    CaughtUp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            record::NewEvent,
            stream::{ExpectedVersion, StreamId},
        },
        memory::{InMemoryEventBus, InMemoryEventStore},
        port::AppendEvents as _,
    };

    async fn relay(payloads: impl Iterator<Item = String>) -> Relay {
        let store = InMemoryEventStore::new();
        let stream = StreamId::parse("Order", "1").unwrap();
        let events = payloads.map(|payload| NewEvent::new(Name::from_static("Noted"), 1, payload)).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
        Relay::prepare(Arc::new(store), Arc::new(InMemoryEventBus::new())).await.unwrap()
    }

    async fn range(relay: &Relay, after: u64, head: u64) -> (usize, u64) {
        let (after, head) = (Position::new(after), Position::new(head));
        let (events, through) = relay.next_range(after, head).await.unwrap();
        (events.len(), through.get())
    }

    #[tokio::test]
    async fn a_range_includes_what_came_after_the_head_was_asked_for_and_the_gaps_before_it() {
        let relay = relay(std::iter::repeat_n("{}".into(), 3)).await;
        assert_eq!(range(&relay, 0, 2).await, (3, 3));
        assert_eq!(range(&relay, 1, 5).await, (2, 5));
        assert_eq!(range(&relay, 3, 5).await, (0, 5));
    }

    #[test]
    fn only_the_last_message_ids_are_remembered() {
        let stream = StreamId::parse("Order", "1").unwrap();
        let mut progress = RelayProgress::default();
        for number in 1..=3_000 {
            let position = Position::new(number);
            let event = NewEvent::new(Name::from_static("Noted"), 1, "{}");
            let event = event.recorded_as(stream.clone(), number.into(), Some(position));
            progress.published(&[event], vec![MessageId::new(number.to_string())], position);
        }
        let id = |number| progress.message_id(Position::new(number));
        assert_eq!(id(3_000), Some(MessageId::new("3000")));
        assert_eq!((id(1_000), progress.recent.len()), (None, REMEMBERED));
    }

    #[tokio::test]
    async fn a_range_is_limited_in_events_and_bytes() {
        let small = relay(std::iter::repeat_n("{}".into(), 300)).await;
        assert_eq!(range(&small, 0, 300).await, (256, 256));
        assert_eq!(range(&small, 256, 300).await, (44, 300));
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(100 * 1024));
        let large = relay(std::iter::repeat_n(large, 5)).await;
        assert_eq!(range(&large, 0, 5).await, (3, 3));
    }
}
