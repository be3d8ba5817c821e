//! A bus in memory that keeps published positions beside its events and loses data on demand: for tests of the relay.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Fault, Faults, Refusal, delegate,
    lossy_bus_data::{LosableData, LossyBusData},
};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    memory::InMemoryEventBus,
    port::{
        EventBus, MessageId, PublishError, RelayTarget,
        relay::{PublishRange, PublishedPosition, RangeOutcome},
    },
};

/// A [`RelayTarget`] in memory whose data a test can lose, roll back and consume.
///
/// Clones share data, faults and pauses; a [`connection`](Self::connection) shares the data only.
#[derive(Clone)]
pub struct LossyBus {
    data: Arc<Mutex<LossyBusData>>,
    bus: InMemoryEventBus,
    /// Failures of the next ranges published over this connection, and of requests for the position.
    pub ranges: Faults,
    /// The event that this connection refuses.
    pub refused: Refusal,
    paused: Arc<watch::Sender<bool>>,
}

/// A copy of the data of a bus at one moment.
#[derive(Debug, Clone)]
pub struct LossyBusSnapshot(LosableData);

impl Default for LossyBus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LossyBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossyBus").field("data", &self.data.lock()).finish_non_exhaustive()
    }
}

impl LossyBus {
    /// Makes an empty bus.
    #[must_use]
    pub fn new() -> Self {
        let (data, ranges, refused, paused) = Default::default();
        Self { data, bus: InMemoryEventBus::new(), ranges, refused, paused }
    }

    /// Returns a second connection to the same data, with its own faults and pauses.
    #[must_use]
    pub fn connection(&self) -> Self {
        Self { data: Arc::clone(&self.data), ..Self::new() }
    }

    /// Loses all data.
    pub fn flush(&self) {
        self.data.lock().losable = LosableData::default();
    }

    /// Returns a copy of the current data.
    #[must_use]
    pub fn snapshot(&self) -> LossyBusSnapshot {
        LossyBusSnapshot(self.data.lock().losable.clone())
    }

    /// Replaces the data with an earlier copy.
    pub fn restore(&self, copy: &LossyBusSnapshot) {
        self.data.lock().losable = copy.0.clone();
    }

    /// Reads and finishes the next events of a group; creates the group if it is missing.
    pub fn take(&self, group: &Name, max: usize) -> Vec<RecordedEvent> {
        let data = &mut *self.data.lock();
        let finished = data.losable.groups.entry(group.clone()).or_default();
        let next = data.losable.entries.iter().filter(|(id, _)| *id > *finished).take(max);
        let entries: Vec<_> = next.cloned().collect();
        *finished = entries.last().map_or(*finished, |(id, _)| *id);
        entries.into_iter().map(|(_, event)| event).collect()
    }

    /// Returns the positions of the events that the bus holds, in order.
    #[must_use]
    pub fn positions(&self) -> Vec<u64> {
        let data = self.data.lock();
        data.losable.entries.iter().filter_map(|(_, event)| event.position()).map(Position::get).collect()
    }

    /// Returns the positions of all events ever published, in order.
    #[must_use]
    pub fn history(&self) -> Vec<u64> {
        self.data.lock().history.iter().copied().map(Position::get).collect()
    }

    /// Returns the published position of the store, if the bus has one.
    #[must_use]
    pub fn position(&self, store: Uuid) -> Option<Position> {
        Some(self.data.lock().losable.records.get(&store)?.position)
    }

    /// Blocks ranges published over this connection before they take effect, and requests for the position; or unblocks
    /// them.
    pub fn pause(&self, is_paused: bool) {
        self.paused.send_replace(is_paused);
    }

    /// Returns `true` if a range is blocked.
    #[must_use]
    pub fn is_range_paused(&self) -> bool {
        self.paused.receiver_count() > 0
    }

    fn error(&self, is_unknown: bool) -> PublishError {
        let (destination, source) = (self.destination().clone(), "fault made by the test".into());
        match is_unknown {
            true => PublishError::OutcomeUnknown { destination, source },
            false => PublishError::Unavailable { destination, source },
        }
    }
}

#[async_trait]
impl RelayTarget for LossyBus {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        // the sender lives as long as this connection
        let _ = self.paused.subscribe().wait_for(|is_paused| !is_paused).await;
        let fault = self.ranges.take();
        if fault == Some(Fault::Unavailable) {
            return Err(self.error(false));
        }
        self.refused.check(self.destination(), range.events)?;
        let outcome = self.data.lock().publish(store, range);
        if fault.is_some() { Err(self.error(true)) } else { Ok(outcome) }
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        while *self.paused.borrow() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await; // receivers count as paused ranges
        }
        if self.ranges.take().is_some() {
            return Err(self.error(false));
        }
        Ok(self.data.lock().losable.records.get(&store).copied())
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        Ok(self.data.lock().set_position(store, from, to))
    }

    async fn published_before(
        &self,
        _store: Uuid,
        before: Option<&MessageId>,
    ) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
        if self.ranges.take().is_some() {
            return Err(self.error(false));
        }
        let data = self.data.lock();
        let entries = data.losable.entries.iter().rev().map(|(id, event)| (MessageId::new(id.to_string()), event));
        let published = |event: &RecordedEvent| PublishedPosition {
            position: event.position().unwrap_or_default(),
            event_id: Some(event.metadata().event_id()),
        };
        let entries: Vec<_> = entries.map(|(id, event)| (id, published(event))).collect();
        let first = before.map_or(0, |before| entries.iter().take_while(|(id, _)| id != before).count() + 1);
        Ok(entries.into_iter().skip(first).take(2).collect())
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        Ok(self.data.lock().other_store(own))
    }
}

delegate!(LossyBus, self => self.bus; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.bus.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }
});
