//! Backends that fail on demand, for tests of error handling.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use super::delegate;
use crate::{
    domain::{
        error::BoxError,
        idempotency_key::IdempotencyKey,
        metadata::EventId,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId},
    },
    port::{
        AppendError, AppendEvents, CheckpointError, Checkpoints, EventBus, EventStore, HandlerProgress, MessageId,
        MultiStreamAppends, PublishError, ReadError, RelayTarget,
        multi_stream_append::{HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
        relay::{PublishRange, PublishedPosition, RangeOutcome},
    },
};

/// The failure of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call has no effect and returns "unavailable".
    Unavailable,
    /// The call takes effect, but returns "outcome unknown".
    LostReply,
}

fn test_fault() -> BoxError {
    "fault made by the test".into()
}

/// The failures that the next calls will have, in order. Clones share one queue.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<VecDeque<Fault>>>);

impl Faults {
    /// Makes the next `times` calls fail with `fault`.
    pub fn fail_next(&self, fault: Fault, times: usize) {
        self.0.lock().extend(vec![fault; times]);
    }

    /// Returns the number of queued failures.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.lock().len()
    }

    /// Drops the queued failures: the next calls succeed.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    pub(super) fn take(&self) -> Option<Fault> {
        self.0.lock().pop_front()
    }
}

/// The event that a bus refuses at each attempt to publish it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<Position>>>);

impl Refusal {
    /// Refuses the event at `position` from now on, or every publish if it is [`Position::START`]; `None` stops
    /// refusing.
    pub fn set(&self, position: Option<Position>) {
        *self.0.lock() = position;
    }

    pub(super) fn check(&self, destination: &Name, events: &[RecordedEvent]) -> Result<(), PublishError> {
        let Some(position) = *self.0.lock() else {
            return Ok(());
        };
        let event = events.iter().find(|event| event.position() == Some(position));
        if event.is_none() && position > Position::START {
            return Ok(());
        }
        let event_id = event.map(|event| event.metadata().event_id());
        Err(PublishError::Refused { destination: destination.clone(), event_id, source: test_fault() })
    }
}

/// A store whose appends and saves of checkpoints fail on demand. Appends in a transaction of the store do not fail: to
/// fail its commit, see [`TableStore::commits`](super::TableStore).
#[derive(Clone)]
pub struct FaultyStore {
    store: Arc<dyn EventStore>,
    /// Failures of the next appends, to one stream or to several: those of saves, commands with a key, decisions and
    /// handlers.
    pub appends: Faults,
    /// Failures of the next saves of checkpoints and of the progress of handlers.
    pub checkpoints: Faults,
}

impl FaultyStore {
    /// Wraps a working store.
    pub fn new(store: impl EventStore) -> Self {
        Self { store: Arc::new(store), appends: Faults::default(), checkpoints: Faults::default() }
    }

    async fn append_with_fault<T>(
        &self,
        append: impl Future<Output = Result<T, AppendError>>,
    ) -> Result<T, AppendError> {
        match self.appends.take() {
            None => append.await,
            Some(Fault::Unavailable) => Err(AppendError::Unavailable(test_fault())),
            Some(Fault::LostReply) => {
                append.await?;
                Err(AppendError::OutcomeUnknown(test_fault()))
            }
        }
    }

    fn inner_handler_progress(&self) -> &dyn HandlerProgress {
        self.store.handler_progress().expect("`handler_progress` has looked for it")
    }

    fn inner_multi_stream_appends(&self) -> Result<&dyn MultiStreamAppends, BoxError> {
        self.store.multi_stream_appends().ok_or_else(|| "the store has no multi-stream appends".into())
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("appends", &self.appends).finish_non_exhaustive()
    }
}

#[async_trait]
impl AppendEvents for FaultyStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        self.append_with_fault(self.store.append(stream, expected, events)).await
    }
}

#[async_trait]
impl MultiStreamAppends for FaultyStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        let appends = self.inner_multi_stream_appends().map_err(AppendError::Unavailable)?;
        self.append_with_fault(appends.append_streams(multi)).await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        self.inner_multi_stream_appends().map_err(ReadError::Unavailable)?.is_handled(delivery).await
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        self.inner_multi_stream_appends().map_err(ReadError::Unavailable)?.handled_deliveries(events).await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        self.inner_multi_stream_appends()?.forget_deliveries(older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        self.inner_multi_stream_appends().map_err(ReadError::Unavailable)?.find_command(tenant_id, key).await
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        self.inner_multi_stream_appends()?.forget_commands(older_than).await
    }
}

delegate!(FaultyStore, self => self.inner_handler_progress(); HandlerProgress {
    async fn save_shards(
        &self,
        member: &Name,
        last_read: Option<(Position, EventId)>,
        saves: &[ShardSave],
    ) -> Result<Saved, HandlerProgressError> {
        let (fault, inner) = (self.checkpoints.take(), self.inner_handler_progress());
        let saved = match fault {
            Some(Fault::Unavailable) => None,
            _ => Some(inner.save_shards(member, last_read, saves).await?),
        };
        saved.filter(|_| fault.is_none()).ok_or_else(|| HandlerProgressError::new(test_fault()))
    }
});

delegate!(FaultyStore, self => self.store; ReadStream, ReadFeed, Leases, EventStore {
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        self.store.handler_progress().map(|_| -> &dyn HandlerProgress { self })
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        let inner = self.store.multi_stream_appends();
        inner.map(|_| -> &dyn MultiStreamAppends { self })
    }
});

#[async_trait]
impl Checkpoints for FaultyStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        self.store.load_checkpoint(name).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let fault = self.checkpoints.take();
        if fault != Some(Fault::Unavailable) {
            self.store.save_checkpoint(name, position).await?;
        }
        fault.map_or(Ok(()), |_| Err(CheckpointError::new(name, "fault made by the test")))
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.store.delete_checkpoint(name).await
    }
}

/// A bus that fails to publish on demand.
#[derive(Clone)]
pub struct FaultyBus {
    bus: Arc<dyn EventBus>,
    /// Failures of the next publish calls, the relay's included.
    pub publishes: Faults,
    /// The event that this bus refuses, also from the relay.
    pub refused: Refusal,
}

impl FaultyBus {
    /// Wraps a working bus.
    pub fn new(bus: impl EventBus) -> Self {
        Self { bus: Arc::new(bus), publishes: Faults::default(), refused: Refusal::default() }
    }

    async fn with_fault<T>(&self, publish: impl Future<Output = Result<T, PublishError>>) -> Result<T, PublishError> {
        let destination = self.destination().clone();
        let source = test_fault();
        match self.publishes.take() {
            None => publish.await,
            Some(Fault::Unavailable) => Err(PublishError::Unavailable { destination, source }),
            Some(Fault::LostReply) => {
                publish.await?;
                Err(PublishError::OutcomeUnknown { destination, source })
            }
        }
    }

    /// Returns the target of the wrapped bus.
    fn target(&self) -> Result<&dyn RelayTarget, PublishError> {
        let unavailable =
            || PublishError::Unavailable { destination: self.destination().clone(), source: test_fault() };
        self.bus.relay_target().ok_or_else(unavailable)
    }
}

#[async_trait]
impl RelayTarget for FaultyBus {
    async fn publish_range(&self, store: Uuid, range: PublishRange<'_>) -> Result<RangeOutcome, PublishError> {
        self.refused.check(self.destination(), range.events)?;
        self.with_fault(self.target()?.publish_range(store, range)).await
    }

    async fn published_position(&self, store: Uuid) -> Result<Option<PublishedPosition>, PublishError> {
        self.target()?.published_position(store).await
    }

    async fn set_position(
        &self,
        store: Uuid,
        from: Option<PublishedPosition>,
        to: PublishedPosition,
    ) -> Result<PublishedPosition, PublishError> {
        self.target()?.set_position(store, from, to).await
    }

    async fn published_before(
        &self,
        store: Uuid,
        before: Option<&MessageId>,
    ) -> Result<Vec<(MessageId, PublishedPosition)>, PublishError> {
        self.target()?.published_before(store, before).await
    }

    async fn other_store(&self, own: Uuid) -> Result<Option<Uuid>, PublishError> {
        self.target()?.other_store(own).await
    }
}

impl fmt::Debug for FaultyBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyBus").field("publishes", &self.publishes).finish_non_exhaustive()
    }
}

delegate!(FaultyBus, self => self.bus; EventBus {
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Vec<MessageId>, PublishError> {
        self.refused.check(self.destination(), events)?;
        self.with_fault(self.bus.publish(events)).await
    }

    fn relay_target(&self) -> Option<&dyn RelayTarget> {
        self.bus.relay_target().map(|_| -> &dyn RelayTarget { self })
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.bus.dead_letters()
    }
});
