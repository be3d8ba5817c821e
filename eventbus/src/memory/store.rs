//! The event store in memory: the readable reference, and the store of tests.
//!
//! One lock around one log. Keep: every decision about an append is made, and its events are pushed, under one write
//! lock, so an event is never visible before all events with lower positions are.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;

use crate::{
    domain::{
        metadata::EventId,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId, Version},
    },
    port::{
        AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, Direction, EventStore, ReadError,
        ReadFeed, ReadStream, RecordStream, check_ids, check_payloads, first_result, paged,
    },
};

/// How many events are copied out of the log while it is locked.
const PAGE: usize = 256;

/// An event store that lives and dies with the process; clones share one store.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId, port::AppendEvents};
///
/// let store = InMemoryEventStore::new();
/// let stream = StreamId::parse("Account", "12345")?;
/// let event = NewEvent::new(Name::new("event type", "Deposited")?, 1, r#"{"cents":120}"#);
///
/// let recorded = store.append(&stream, ExpectedVersion::NoStream, vec![event.clone()]).await?;
/// assert_eq!(recorded[0].version(), 1);
/// let again = store.append(&stream, ExpectedVersion::NoStream, vec![event]).await?;
/// assert_eq!(again, recorded); // the same event id: the first result, nothing written
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct InMemoryEventStore(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    log: RwLock<Log>,
    checkpoints: RwLock<HashMap<Name, Position>>,
    appended: AppendSignal,
}

impl InMemoryEventStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// All events in position order: the event at index `i` has position `i + 1`.
#[derive(Debug, Default)]
struct Log {
    events: Vec<RecordedEvent>,
    /// Per stream the indexes of its events: the event at index `i` of the list has version `i + 1`.
    streams: HashMap<StreamId, Vec<usize>>,
    by_id: HashMap<EventId, usize>,
}

impl Log {
    fn append(
        &mut self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let ids: Vec<_> = events.iter().map(NewEvent::event_id).collect();
        if let Some(first) = first_result(stream, &ids, self.with_ids(&ids))? {
            return Ok(first);
        }
        let actual = self.version(stream);
        if !expected.matches(actual) {
            return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
        }
        Ok(events.into_iter().enumerate().map(|(i, event)| self.push(stream, actual.plus(i + 1), event)).collect())
    }

    fn push(&mut self, stream: &StreamId, version: Version, event: NewEvent) -> RecordedEvent {
        let index = self.events.len();
        let position = Position::new(index as u64 + 1);
        self.by_id.insert(event.event_id(), index);
        self.streams.entry(stream.clone()).or_default().push(index);
        let recorded = event.recorded_as(stream.clone(), version, Some(position));
        self.events.push(recorded.clone());
        recorded
    }

    fn with_ids(&self, ids: &[EventId]) -> Vec<RecordedEvent> {
        let indexes = ids.iter().filter_map(|id| self.by_id.get(id));
        indexes.map(|&index| self.events[index].clone()).collect()
    }

    fn indexes(&self, stream: &StreamId) -> &[usize] {
        self.streams.get(stream).map_or(&[], Vec::as_slice)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version::NONE.plus(self.indexes(stream).len())
    }

    fn page(&self, stream: &StreamId, from: Version, direction: Direction) -> Vec<RecordedEvent> {
        let indexes = self.indexes(stream);
        let event = |&index: &usize| self.events[index].clone();
        match direction {
            Direction::Forward => {
                let before = clamp(from.get().saturating_sub(1), indexes.len());
                indexes[before..].iter().take(PAGE).map(event).collect()
            }
            Direction::Backward => {
                let upto = clamp(from.get(), indexes.len());
                indexes[..upto].iter().rev().take(PAGE).map(event).collect()
            }
        }
    }

    fn feed_page(&self, after: Position) -> Vec<RecordedEvent> {
        let from = clamp(after.get(), self.events.len());
        self.events[from..].iter().take(PAGE).cloned().collect()
    }
}

fn clamp(number: u64, max: usize) -> usize {
    usize::try_from(number).map_or(max, |number| number.min(max))
}

/// A writer never leaves a half-made change behind, so a poisoned lock still guards a sound value.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl AppendEvents for InMemoryEventStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        check_ids(stream, &events)?;
        check_payloads(stream, &events)?;
        let recorded = write(&self.0.log).append(stream, expected, events)?;
        self.0.appended.notify();
        Ok(recorded)
    }
}

#[async_trait]
impl ReadStream for InMemoryEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        paged(from, move |from| {
            let page = read(&self.0.log).page(&stream, from, direction);
            let last = page.last().map(RecordedEvent::version);
            let next = last.and_then(|last| match direction {
                Direction::Forward => Some(last.next()),
                Direction::Backward => last.get().checked_sub(1).map(Version::new),
            });
            std::future::ready(Ok((page, next)))
        })
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        Ok(read(&self.0.log).version(stream))
    }
}

#[async_trait]
impl ReadFeed for InMemoryEventStore {
    fn read_all(&self, after: Position) -> RecordStream<'_> {
        paged(after, |after| {
            let page = read(&self.0.log).feed_page(after);
            let next = page.last().and_then(RecordedEvent::position);
            std::future::ready(Ok((page, next)))
        })
    }

    async fn head(&self) -> Result<Position, ReadError> {
        Ok(Position::new(read(&self.0.log).events.len() as u64))
    }

    fn appended(&self) -> &AppendSignal {
        &self.0.appended
    }
}

#[async_trait]
impl Checkpoints for InMemoryEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Ok(read(&self.0.checkpoints).get(name).copied())
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        write(&self.0.checkpoints).insert(name.clone(), position);
        Ok(())
    }
}

impl EventStore for InMemoryEventStore {}
