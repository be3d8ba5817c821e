//! The stand-in for the store of an app that only consumes: every request returns an error.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::{
        error::BoxError,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId, Version},
    },
    port::{
        AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, DeadDelivery, Direction, EventStore,
        FeedFilter, Floor, Floors, Lease, LeaseError, Leases, ProgressUpdate, ReadError, ReadFeed, ReadStream,
        RecordStream, UnfinishedDeliveries, UnfinishedDelivery, attempts::DeliveryAttempts,
    },
};

/// Answers every request with "this app has no store".
#[derive(Debug, Default)]
pub(super) struct NoStore(AppendSignal);

fn no_store_error() -> BoxError {
    ReadError::NoStore.into()
}

#[async_trait]
impl AppendEvents for NoStore {
    async fn append(
        &self,
        _stream: &StreamId,
        _expected: ExpectedVersion,
        _events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        Err(AppendError::NoStore)
    }
}

#[async_trait]
impl ReadStream for NoStore {
    fn read_stream(&self, _stream: &StreamId, _from: Version, _direction: Direction) -> RecordStream<'_> {
        Box::pin(futures_util::stream::iter([Err(ReadError::NoStore)]))
    }

    async fn stream_version(&self, _stream: &StreamId) -> Result<Version, ReadError> {
        Err(ReadError::NoStore)
    }
}

#[async_trait]
impl ReadFeed for NoStore {
    fn read_feed(&self, _after: Position, _through: Position, _filter: &FeedFilter) -> RecordStream<'_> {
        Box::pin(futures_util::stream::iter([Err(ReadError::NoStore)]))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        Err(ReadError::NoStore)
    }

    async fn count_events(&self, _: Position, _: Position, _: &FeedFilter) -> Result<u64, ReadError> {
        Err(ReadError::NoStore)
    }

    async fn first_recorded_after(&self, _: Position) -> Result<Option<OffsetDateTime>, ReadError> {
        Err(ReadError::NoStore)
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        Err(ReadError::NoStore)
    }

    fn appended(&self) -> &AppendSignal {
        &self.0
    }
}

#[async_trait]
impl Checkpoints for NoStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Err(CheckpointError::new(name, no_store_error()))
    }

    async fn save_checkpoint(&self, name: &Name, _position: Position) -> Result<(), CheckpointError> {
        Err(CheckpointError::new(name, no_store_error()))
    }
}

#[async_trait]
impl Leases for NoStore {
    async fn acquire_lease(&self, role: &Name, _: &Name, _: Duration) -> Result<Option<Lease>, LeaseError> {
        Err(LeaseError::new(role, no_store_error()))
    }

    async fn seize_lease(&self, role: &Name, _: &Name, _: Duration) -> Result<Lease, LeaseError> {
        Err(LeaseError::new(role, no_store_error()))
    }

    async fn renew_lease(&self, lease: &Lease, _: Duration) -> Result<bool, LeaseError> {
        Err(LeaseError::new(&lease.role, no_store_error()))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        Err(LeaseError::new(&lease.role, no_store_error()))
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        Err(LeaseError::new(role, no_store_error()))
    }
}

#[async_trait]
impl Floors for NoStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        Err(CheckpointError::new(destination, no_store_error()))
    }

    async fn save_floors(&self, destination: &Name, _: &[Floor]) -> Result<(), CheckpointError> {
        Err(CheckpointError::new(destination, no_store_error()))
    }

    async fn forget_floor(&self, destination: &Name, _: &Name) -> Result<(), CheckpointError> {
        Err(CheckpointError::new(destination, no_store_error()))
    }
}

#[async_trait]
impl UnfinishedDeliveries for NoStore {
    async fn save_progress(&self, group: &Name, _: &ProgressUpdate) -> Result<(), CheckpointError> {
        Err(CheckpointError::new(group, no_store_error()))
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        Err(CheckpointError::new(group, no_store_error()))
    }

    async fn dead_positions(&self, group: &Name, _: Position) -> Result<Vec<Position>, CheckpointError> {
        Err(CheckpointError::new(group, no_store_error()))
    }

    async fn dead_deliveries(&self, _: Option<&DeadDelivery>, _: usize) -> Result<Vec<DeadDelivery>, CheckpointError> {
        Err(CheckpointError::new(&DEAD_LETTERS, no_store_error()))
    }

    async fn dead_delivery(&self, group: &Name, _: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        Err(CheckpointError::new(group, no_store_error()))
    }

    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError> {
        Err(CheckpointError::new(&DEAD_LETTERS, no_store_error()))
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        _: Position,
        _: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        Err(CheckpointError::new(group, no_store_error()))
    }
}

/// The name in errors about the dead letters of all groups.
static DEAD_LETTERS: Name = Name::from_static("dead letters");

impl EventStore for NoStore {}
