//! A store that ends the process at its calls.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    port::{
        Append, AppendError, AppendEvents, CheckpointError, Checkpoints, EventStore, EventTypes, HandlerProgress,
        MultiStreamAppends, Notes, ReadError, Snapshots, Transactions, listings::Listings,
    },
    repository::IdempotencyKey,
    store::{
        AppendBatches, Boundaries, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome, UniqueValues,
    },
    testkit::delegate,
};

use super::{FailPoints, transaction::FailPointTransactions};

/// A store that ends the process at its calls.
#[derive(Clone)]
pub struct FailPointStore {
    store: Arc<dyn EventStore>,
    fail_points: FailPoints,
}

impl FailPointStore {
    /// Wraps a store.
    pub fn new(store: impl EventStore, fail_points: FailPoints) -> Self {
        Self { store: Arc::new(store), fail_points }
    }
}

impl std::fmt::Debug for FailPointStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailPointStore").field("fail_points", &self.fail_points).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl AppendEvents for FailPointStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        self.fail_points.around("append", self.store.append(stream, expected, events)).await
    }

    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        self.fail_points.around("append", self.store.append_many(appends)).await
    }
}

delegate!(FailPointStore, self => self.store; ReadStream, ReadFeed, Leases);

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Checkpoints for FailPointStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        self.store.load_checkpoint(name).await
    }

    async fn load_checkpoints(&self, names: &[Name]) -> Result<Vec<Option<Position>>, CheckpointError> {
        self.store.load_checkpoints(names).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        self.fail_points.around("checkpoint", self.store.save_checkpoint(name, position)).await
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.store.delete_checkpoint(name).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl EventStore for FailPointStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        let transactions = self.store.transactions()?;
        Some(Arc::new(FailPointTransactions::new(transactions, self.fail_points.clone())))
    }

    fn server_fault(&self, error: &(dyn std::error::Error + 'static)) -> Option<eventbus::port::ServerFault> {
        self.store.server_fault(error)
    }

    fn describe(&self) -> String {
        self.store.describe()
    }

    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        self.store.handler_progress()
    }

    fn listings(&self) -> Option<&dyn Listings> {
        self.store.listings()
    }

    fn notes(&self) -> Option<&dyn Notes> {
        self.store.notes()
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        self.store.event_types()
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.store.snapshots()
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        self.store.multi_stream_appends().map(|_| self as &dyn MultiStreamAppends)
    }

    fn append_batches(&self) -> Option<&AppendBatches> {
        self.store.append_batches()
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        self.store.unique_values()
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        self.store.boundaries()
    }
}

/// The error of a store that appends to one stream at a time.
const ONE_STREAM: &str = "the store appends to one stream at a time only";

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MultiStreamAppends for FailPointStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        let multi_stream =
            self.store.multi_stream_appends().ok_or_else(|| AppendError::Unavailable(ONE_STREAM.into()))?;
        self.fail_points.around("multi_stream", multi_stream.append_streams(multi)).await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        let multi_stream =
            self.store.multi_stream_appends().ok_or_else(|| ReadError::Unavailable(ONE_STREAM.into()))?;
        multi_stream.is_handled(delivery).await
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let multi_stream =
            self.store.multi_stream_appends().ok_or_else(|| ReadError::Unavailable(ONE_STREAM.into()))?;
        multi_stream.handled_deliveries(events).await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let multi_stream = self.store.multi_stream_appends().ok_or(ONE_STREAM)?;
        multi_stream.forget_deliveries(older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        let multi_stream =
            self.store.multi_stream_appends().ok_or_else(|| ReadError::Unavailable(ONE_STREAM.into()))?;
        multi_stream.find_command(tenant_id, key).await
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        let multi_stream = self.store.multi_stream_appends().ok_or(ONE_STREAM)?;
        multi_stream.forget_commands(older_than).await
    }
}
