//! The store of an app that only consumes: there is none, and whoever needs one is told.

use async_trait::async_trait;

use crate::{
    domain::{
        error::BoxError,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId, Version},
    },
    port::{
        AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, Direction, EventStore, ReadError,
        ReadFeed, ReadStream, RecordStream,
    },
};

/// Answers every request with "this app has no store".
#[derive(Debug, Default)]
pub(super) struct NoStore(AppendSignal);

fn none() -> BoxError {
    "this app only consumes: its builder has a bus and no `.store(..)`".into()
}

#[async_trait]
impl AppendEvents for NoStore {
    async fn append(
        &self,
        _stream: &StreamId,
        _expected: ExpectedVersion,
        _events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        Err(AppendError::Unavailable(none()))
    }
}

#[async_trait]
impl ReadStream for NoStore {
    fn read_stream(&self, _stream: &StreamId, _from: Version, _direction: Direction) -> RecordStream<'_> {
        Box::pin(futures_util::stream::iter([Err(ReadError::Unavailable(none()))]))
    }

    async fn stream_version(&self, _stream: &StreamId) -> Result<Version, ReadError> {
        Err(ReadError::Unavailable(none()))
    }
}

#[async_trait]
impl ReadFeed for NoStore {
    fn read_all(&self, _after: Position) -> RecordStream<'_> {
        Box::pin(futures_util::stream::iter([Err(ReadError::Unavailable(none()))]))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        Err(ReadError::Unavailable(none()))
    }

    fn appended(&self) -> &AppendSignal {
        &self.0
    }
}

#[async_trait]
impl Checkpoints for NoStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Err(CheckpointError::new(name, none()))
    }

    async fn save_checkpoint(&self, name: &Name, _position: Position) -> Result<(), CheckpointError> {
        Err(CheckpointError::new(name, none()))
    }
}

impl EventStore for NoStore {}
