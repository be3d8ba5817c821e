//! The stand-in for the store of an app that only consumes: every request returns an error.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::{
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId, Version},
    },
    port::{
        AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, Direction, EventStore, FeedFilter,
        Lease, LeaseError, Leases, MissingEvent, ReadError, ReadFeed, ReadStream, RecordStream,
    },
};

/// Answers every request with "this app has no store".
#[derive(Debug, Default)]
pub(super) struct NoStore(AppendSignal);

fn no_checkpoint(name: &Name) -> CheckpointError {
    CheckpointError::new(name, ReadError::NoStore)
}

fn no_lease(role: &Name) -> LeaseError {
    LeaseError::new(role, ReadError::NoStore)
}

/// Implements a port by methods that fail with the error after the `=`, and by methods of its own.
macro_rules! refuse {
    ($port:ident { $($own:item)* }
     $($method:ident($($arg:ident: $type:ty),*) -> $output:ty = $refusal:expr;)*) => {
        #[async_trait]
        impl $port for NoStore {
            $($own)*
            $(async fn $method(&self, $($arg: $type),*) -> $output {
                let _ = ($(&$arg,)*);
                Err($refusal)
            })*
        }
    };
}

refuse! {
    AppendEvents {}
    append(stream: &StreamId, expected: ExpectedVersion, events: Vec<NewEvent>)
        -> Result<Vec<RecordedEvent>, AppendError> = AppendError::NoStore;
}

refuse! {
    ReadStream {
        fn read_stream(&self, _stream: &StreamId, _from: Version, _direction: Direction) -> RecordStream<'_> {
            Box::pin(futures_util::stream::iter([Err(ReadError::NoStore)]))
        }
    }
    stream_version(stream: &StreamId) -> Result<Version, ReadError> = ReadError::NoStore;
}

refuse! {
    ReadFeed {
        fn read_feed(&self, _after: Position, _through: Position, _filter: &FeedFilter) -> RecordStream<'_> {
            Box::pin(futures_util::stream::iter([Err(ReadError::NoStore)]))
        }

        fn appended(&self) -> &AppendSignal {
            &self.0
        }
    }
    head() -> Result<Position, ReadError> = ReadError::NoStore;
    count_events(after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> = ReadError::NoStore;
    first_recorded_after(after: Position) -> Result<Option<OffsetDateTime>, ReadError> = ReadError::NoStore;
    find_missing_event(stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> = ReadError::NoStore;
    store_id() -> Result<Uuid, ReadError> = ReadError::NoStore;
}

refuse! {
    Checkpoints {}
    load_checkpoint(name: &Name) -> Result<Option<Position>, CheckpointError> = no_checkpoint(name);
    save_checkpoint(name: &Name, position: Position) -> Result<(), CheckpointError> = no_checkpoint(name);
    delete_checkpoint(name: &Name) -> Result<(), CheckpointError> = no_checkpoint(name);
}

refuse! {
    Leases {}
    acquire_lease(role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> = no_lease(role);
    seize_lease(role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> = no_lease(role);
    renew_lease(lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> = no_lease(&lease.role);
    release_lease(lease: &Lease) -> Result<(), LeaseError> = no_lease(&lease.role);
    lease_of(role: &Name) -> Result<Option<Lease>, LeaseError> = no_lease(role);
}

impl EventStore for NoStore {}
