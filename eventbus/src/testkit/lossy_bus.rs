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
        EventBus, PublishError, RelayTarget,
        relay::{
            GroupFloor, GroupFloors, PublishRange, PublishedPosition, Publisher, RangeOutcome, ResyncOutcome,
            ResyncRequest,
        },
    },
};

/// A [`RelayTarget`] in memory whose data a test can lose, roll back, trim and consume.
///
/// Clones share data, faults and pauses; a [`connection`](Self::connection) shares the data only.
#[derive(Clone)]
pub struct LossyBus {
    data: Arc<Mutex<LossyBusData>>,
    bus: InMemoryEventBus,
    /// Failures of the next ranges published over this connection.
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

    /// Removes the oldest entries, also those that groups have not finished.
    pub fn trim(&self, entries: usize) {
        let data = &mut *self.data.lock();
        let gone = data.losable.entries.drain(..entries.min(data.losable.entries.len())).next_back();
        for group in data.losable.groups.values_mut() {
            group.has_gap |= gone.as_ref().is_some_and(|gone| group.finished < gone.id);
        }
    }

    /// Creates a group at the oldest entry, if it is missing.
    pub fn create_group(&self, group: &Name) {
        self.data.lock().losable.groups.entry(group.clone()).or_default();
    }

    /// Removes a group.
    pub fn destroy_group(&self, group: &Name) {
        self.data.lock().losable.groups.remove(group);
    }

    /// Reads and finishes the next events of a group; creates the group if it is missing.
    pub fn take(&self, group: &Name, max: usize) -> Vec<RecordedEvent> {
        let data = &mut *self.data.lock();
        let group = data.losable.groups.entry(group.clone()).or_default();
        let next = data.losable.entries.iter().filter(|entry| entry.id > group.finished).take(max);
        let entries: Vec<_> = next.cloned().collect();
        group.finished = entries.last().map_or(group.finished, |entry| entry.id);
        entries.into_iter().map(|entry| entry.event).collect()
    }

    /// Returns the positions of the events that the bus holds, in order.
    #[must_use]
    pub fn positions(&self) -> Vec<u64> {
        let data = self.data.lock();
        data.losable.entries.iter().filter_map(|entry| entry.event.position()).map(Position::get).collect()
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

    /// Reports `floor` for every group from now on, instead of the true one; `None` reports the true floors again.
    pub fn report_floors(&self, floor: Option<GroupFloor>) {
        self.data.lock().reported_floor = floor;
    }

    /// Blocks ranges published over this connection before they take effect, or unblocks them.
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
    async fn publish_range(&self, publisher: Publisher, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        // the sender lives as long as this connection
        let _ = self.paused.subscribe().wait_for(|is_paused| !is_paused).await;
        let fault = self.ranges.take();
        if fault == Some(Fault::Unavailable) {
            return Err(self.error(false));
        }
        self.refused.check(self.destination(), range.events)?;
        let outcome = self.data.lock().publish(publisher, range);
        if fault.is_some() { Err(self.error(true)) } else { Ok(outcome) }
    }

    async fn resync(&self, publisher: Publisher, request: ResyncRequest<'_>) -> Result<ResyncOutcome, PublishError> {
        Ok(self.data.lock().resync(publisher, request))
    }

    async fn published_positions(&self, publisher: Publisher) -> Result<Vec<PublishedPosition>, PublishError> {
        Ok(self.data.lock().published_position(publisher.store).into_iter().collect())
    }

    async fn group_floors(&self, publisher: Publisher, known: &[Name]) -> Result<GroupFloors, PublishError> {
        Ok(self.data.lock().floors(publisher.store, known))
    }

    async fn rewind(&self, publisher: Publisher, to: Position) -> Result<ResyncOutcome, PublishError> {
        Ok(self.data.lock().rewind(publisher, to))
    }
}

delegate!(LossyBus, self => self.bus; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.bus.publish(events).await
    }

    async fn publish_feed(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.bus.publish(events).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        Some(self)
    }

    fn backlogs(&self) -> Option<&dyn Backlogs> {
        None
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }

    async fn announce(
        &self,
        announced: &[Announced],
        _store: Option<&dyn EventStore>,
    ) -> Result<Vec<SkippedBefore>, ConsumeError> {
        self.bus.announce(announced, None).await
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn resume_from(&self, _store: Arc<dyn EventStore>) -> Result<Option<Position>, CheckpointError> {
        Ok(None)
    }
});
