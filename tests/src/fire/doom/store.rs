//! A store at whose calls the process dies.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    port::{
        Append, AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, Direction, EventStore,
        FeedFilter, Floor, Floors, Lease, LeaseError, Leases, ReadError, ReadFeed, ReadStream, RecordStream,
        Transactions,
    },
};

use super::{Doom, transaction::DoomedTransactions};

/// A store at whose calls the process dies.
#[derive(Clone)]
pub struct DoomedStore {
    store: Arc<dyn EventStore>,
    doom: Doom,
}

impl DoomedStore {
    /// Wraps a store.
    pub fn new(store: impl EventStore, doom: Doom) -> Self {
        Self { store: Arc::new(store), doom }
    }
}

impl std::fmt::Debug for DoomedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoomedStore").field("doom", &self.doom).finish_non_exhaustive()
    }
}

#[async_trait]
impl AppendEvents for DoomedStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        self.doom.around("append", self.store.append(stream, expected, events)).await
    }

    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        self.doom.around("append", self.store.append_many(appends)).await
    }
}

#[async_trait]
impl ReadStream for DoomedStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        self.store.read_stream(stream, from, direction)
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.store.stream_version(stream).await
    }
}

#[async_trait]
impl ReadFeed for DoomedStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        self.store.read_feed(after, through, filter)
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.store.head().await
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.store.count_events(after, through, filter).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.store.appended()
    }
}

#[async_trait]
impl Checkpoints for DoomedStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        self.store.load_checkpoint(name).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        self.doom.around("checkpoint", self.store.save_checkpoint(name, position)).await
    }
}

#[async_trait]
impl Leases for DoomedStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        self.store.acquire_lease(role, owner, ttl).await
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        self.store.seize_lease(role, owner, ttl).await
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        self.store.renew_lease(lease, ttl).await
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        self.store.lease_of(role).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        self.store.release_lease(lease).await
    }
}

#[async_trait]
impl Floors for DoomedStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        self.store.floors(destination).await
    }

    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError> {
        self.doom.around("floors", self.store.save_floors(destination, floors)).await
    }

    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError> {
        self.store.forget_floor(destination, group).await
    }
}

impl EventStore for DoomedStore {
    fn transactions(&self) -> Option<Arc<dyn Transactions>> {
        let transactions = self.store.transactions()?;
        Some(Arc::new(DoomedTransactions::new(transactions, self.doom.clone())))
    }
}
