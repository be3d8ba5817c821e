//! The event store in memory: the readable reference, and the store of tests.
//!
//! One lock guards one log.
//!
//! Invariant: the store decides about an append and pushes its events under one write lock, so an event is never
//! visible before all events with lower positions are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{handler_table::HandlerTable, leases::LeaseTable, tag_table::TagTable, unique_table::UniqueTable};
use crate::{
    domain::{
        clock::SharedClock,
        error::BoxError,
        idempotency_key::IdempotencyKey,
        metadata::EventId,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::{ExpectedVersion, Position, StreamId, Version},
        tag::{TAGS_MAX, Tag},
        unique::UniqueChange,
    },
    port::{
        Append, AppendError, AppendEvents, AppendSignal, CheckpointError, Checkpoints, Direction, EventStore,
        EventTypes, FeedFilter, HandlerProgress, Lease, LeaseError, Leases, MissingEvent, MultiStreamAppends, Notes,
        ReadError, ReadFeed, ReadStream, RecordStream, SnapshotError, SnapshotRead, Snapshots, StoredEventType,
        StoredSnapshot,
        boundaries::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
        listings::{Listings, StoredCheckpoint, StoredLease, StoredStream},
        multi_stream_append::{Handled, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
        unique_values::{UniqueKey, UniqueValues},
    },
    support::{
        Page, boundary_moved, check_events, check_ids, check_multi_stream, count_then_read, first_multi_stream_result,
        first_result, last_of_each_name, no_such_event, paged, too_many_tags, unique_changes,
    },
};

/// The most events that a reader copies out of the log while it holds the lock.
const PAGE_EVENTS: usize = 256;

/// An event store in the memory of the process; clones share one store.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId, store::AppendEvents};
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
pub struct InMemoryEventStore(Arc<StoreInner>);

#[derive(Debug)]
struct StoreInner {
    id: Uuid,
    /// An append checks the version and adds its events under one write lock.
    log: RwLock<StoreLog>,
    /// Locked alone.
    checkpoints: RwLock<HashMap<Name, Position>>,
    /// Locked alone.
    notes: RwLock<HashMap<Name, String>>,
    leases: LeaseTable,
    /// Locked alone, or before `log`.
    handlers: HandlerTable,
    /// By fold and stream. Locked alone: versions of streams only grow, so a snapshot that was saved is one of its
    /// stream.
    snapshots: RwLock<HashMap<Name, HashMap<StreamId, StoredSnapshot>>>,
    appended: AppendSignal,
}

impl StoreInner {
    fn with_clock(clock: SharedClock) -> Self {
        let (checkpoints, notes, snapshots, appended) = Default::default();
        let log = RwLock::new(StoreLog { clock: clock.clone(), ..StoreLog::default() });
        Self {
            id: clock.new_id(),
            log,
            checkpoints,
            notes,
            leases: LeaseTable::new(clock),
            handlers: HandlerTable::default(),
            snapshots,
            appended,
        }
    }
}

impl Default for StoreInner {
    fn default() -> Self {
        Self::with_clock(SharedClock::SYSTEM)
    }
}

impl InMemoryEventStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty store that expires leases and records events by this clock.
    #[must_use]
    pub fn with_clock(clock: impl Into<SharedClock>) -> Self {
        Self(Arc::new(StoreInner::with_clock(clock.into())))
    }

    /// Returns all streams, in no order.
    pub(super) fn stored_streams(&self) -> Vec<StoredStream> {
        let log = self.0.log.read();
        let stored = |(stream, of_stream): (&StreamId, &StreamIndex)| {
            let last = of_stream.by_version.last().and_then(|&index| log.events[index].metadata().recorded_at());
            StoredStream { stream: stream.clone(), version: log.version(stream), recorded_at: last }
        };
        log.streams.iter().map(stored).collect()
    }

    /// Returns all checkpoints, in no order.
    pub(super) fn stored_checkpoints(&self) -> Vec<StoredCheckpoint> {
        let stored = |(name, position): (&Name, &Position)| StoredCheckpoint {
            name: name.clone(),
            position: *position,
            updated_at: None,
        };
        self.0.checkpoints.read().iter().map(stored).collect()
    }

    /// Returns all leases, in no order.
    pub(super) fn stored_leases(&self) -> Vec<StoredLease> {
        self.0.leases.list()
    }

    /// Returns the progress of handlers.
    pub(super) fn handlers(&self) -> &HandlerTable {
        &self.0.handlers
    }

    /// Returns `true` if this event is at that position.
    pub(super) fn has_event(&self, position: Position, event_id: EventId) -> bool {
        let before = Position::new(position.get().saturating_sub(1));
        let log = self.0.log.read();
        log.between(before, position).first().is_some_and(|event| event.metadata().event_id() == event_id)
    }
}

/// All events in position order: the event at index `i` has position `i + 1`.
#[derive(Debug, Default)]
struct StoreLog {
    events: Vec<RecordedEvent>,
    streams: HashMap<StreamId, StreamIndex>,
    /// The highest schema version of each event type, and the position of its first event.
    types: BTreeMap<Name, (u32, Position)>,
    unique: UniqueTable,
    tags: TagTable,
    /// The deliveries that multi-stream appends handled.
    handled: HashMap<HandledDelivery, OffsetDateTime>,
    /// The commands that they handled, by tenant and key.
    commands: HashMap<(Option<Uuid>, IdempotencyKey), (HandledCommand, OffsetDateTime)>,
    clock: SharedClock,
}

/// Indexes of the events of one stream.
#[derive(Debug, Default)]
struct StreamIndex {
    /// The event at place `i` of the list has version `i + 1`.
    by_version: Vec<usize>,
    by_id: HashMap<EventId, usize>,
}

impl StoreLog {
    fn append(
        &mut self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let ids: Vec<_> = events.iter().map(NewEvent::event_id).collect();
        // before the version check: a repeat expects the version before its first try
        if let Some(first) = first_result(stream, &ids, self.with_ids(stream, &ids))? {
            return Ok(first);
        }
        let actual = self.version(stream);
        if !expected.matches(actual) {
            return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
        }
        self.unique.change(&[(stream, unique_changes(&events))])?;
        Ok(events.into_iter().enumerate().map(|(i, event)| self.push(stream, actual.plus(i + 1), event)).collect())
    }

    fn append_streams(&mut self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        let is_handled = match &multi.handled {
            Some(Handled::Delivery(delivery)) => self.handled.contains_key(delivery),
            Some(Handled::Command(command)) => self.commands.contains_key(&(command.tenant_id, command.key.clone())),
            None => false,
        };
        if is_handled {
            return Ok(MultiStreamOutcome::AlreadyHandled);
        }
        let first_result_of = |append: &Append| {
            let ids: Vec<_> = append.events.iter().map(NewEvent::event_id).collect();
            first_result(&append.stream, &ids, self.with_ids(&append.stream, &ids))
        };
        if let Some(first) = first_multi_stream_result(&multi.appends, first_result_of)? {
            return Ok(MultiStreamOutcome::Appended(first));
        }
        for Append { stream, expected, .. } in &multi.appends {
            let actual = self.version(stream);
            if !expected.matches(actual) {
                return Err(AppendError::Conflict { stream: stream.clone(), expected: *expected, actual });
            }
        }
        if let Some(condition) = multi.condition.as_ref().filter(|condition| self.tags.is_moved(condition)) {
            return Err(boundary_moved(condition));
        }
        let changes = multi.appends.iter().map(|append| (&append.stream, unique_changes(&append.events)));
        self.unique.change(&changes.collect::<Vec<_>>())?;
        let now = self.clock.now();
        match multi.handled {
            Some(Handled::Delivery(delivery)) => drop(self.handled.insert(delivery, now)),
            Some(Handled::Command(command)) => {
                self.commands.insert((command.tenant_id, command.key.clone()), (command, now));
            }
            None => {}
        }
        let records = multi.appends.into_iter().map(|Append { stream, events, .. }| {
            let before = self.version(&stream);
            events.into_iter().enumerate().map(|(i, event)| self.push(&stream, before.plus(i + 1), event)).collect()
        });
        Ok(MultiStreamOutcome::Appended(records.collect()))
    }

    fn push(&mut self, stream: &StreamId, version: Version, event: NewEvent) -> RecordedEvent {
        let index = self.events.len();
        let position = Position::new(index as u64 + 1);
        let (highest, _) = self.types.entry(event.event_type().clone()).or_insert((0, position));
        *highest = event.schema_version().max(*highest);
        // the clock may have been set back since the stream's previous event
        let previous = self.indexes(stream).last().and_then(|&index| self.events[index].metadata().recorded_at());
        let recorded_at = Some(self.clock.now()).max(previous);
        self.tags.insert(position, stream.tenant_id(), &event);
        let recorded = event.recorded_as(stream.clone(), version, Some(position)).with_recorded_at(recorded_at);
        let of_stream = self.streams.entry(stream.clone()).or_default();
        of_stream.by_version.push(index);
        of_stream.by_id.insert(recorded.metadata().event_id(), index);
        self.events.push(recorded.clone());
        recorded
    }

    fn with_ids(&self, stream: &StreamId, ids: &[EventId]) -> Vec<RecordedEvent> {
        let Some(of_stream) = self.streams.get(stream) else {
            return Vec::new();
        };
        let indexes = ids.iter().filter_map(|id| of_stream.by_id.get(id));
        indexes.map(|&index| self.events[index].clone()).collect()
    }

    fn indexes(&self, stream: &StreamId) -> &[usize] {
        self.streams.get(stream).map_or(&[], |of_stream| &of_stream.by_version)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version::NONE.plus(self.indexes(stream).len())
    }

    fn stream_page(&self, stream: &StreamId, from: Version, direction: Direction) -> Vec<RecordedEvent> {
        let indexes = self.indexes(stream);
        let event = |&index: &usize| self.events[index].clone();
        match direction {
            Direction::Forward => {
                let before = clamp(from.get().saturating_sub(1), indexes.len());
                indexes[before..].iter().take(PAGE_EVENTS).map(event).collect()
            }
            Direction::Backward => {
                let upto = clamp(from.get(), indexes.len());
                indexes[..upto].iter().rev().take(PAGE_EVENTS).map(event).collect()
            }
        }
    }

    /// Returns the matching events among the next [`PAGE_EVENTS`], and the cursor of the next page.
    fn feed_page(&self, after: Position, through: Position, filter: &FeedFilter) -> Page<Position> {
        let page = || self.between(after, through).iter().take(PAGE_EVENTS);
        let next = page().next_back().and_then(RecordedEvent::position);
        (page().filter(|event| self.is_wanted(event, filter)).cloned().collect(), next)
    }

    fn is_wanted(&self, event: &RecordedEvent, filter: &FeedFilter) -> bool {
        filter.matches(event) && filter.matches_tags(self.tags.of_event(event.position()))
    }

    fn between(&self, after: Position, through: Position) -> &[RecordedEvent] {
        let through = clamp(through.get(), self.events.len());
        &self.events[clamp(after.get(), through)..through]
    }
}

fn clamp(number: u64, max: usize) -> usize {
    usize::try_from(number).map_or(max, |number| number.min(max))
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
        check_events(stream, &events)?;
        let recorded = self.0.log.write().append(stream, expected, events)?;
        self.0.appended.notify_of(&recorded);
        Ok(recorded)
    }
}

#[async_trait]
impl UniqueValues for InMemoryEventStore {
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError> {
        Ok(self.0.log.read().unique.holder(key).cloned())
    }

    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError> {
        let mut log = self.0.log.write();
        let (expected, actual) = (ExpectedVersion::Exact(version), log.version(stream));
        if !expected.matches(actual) {
            return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
        }
        log.unique.change(&[(stream, last_of_each_name(changes))])
    }
}

#[async_trait]
impl Boundaries for InMemoryEventStore {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        Ok(self.0.log.read().tags.count(boundary))
    }

    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
        count_then_read(self, boundary).await
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        let (stream, version) = (event.metadata().stream(), event.version());
        let mut log = self.0.log.write();
        let stored = log.indexes(stream).get(clamp(version.get().wrapping_sub(1), usize::MAX));
        let position = stored.map(|index| Position::new(*index as u64 + 1));
        let Some(position) = position else {
            return Err(no_such_event(event));
        };
        let tags = log.tags.of_event(Some(position));
        if tags.len() == TAGS_MAX && !tags.contains(tag) {
            return Err(too_many_tags(event));
        }
        Ok(log.tags.add(position, stream.tenant_id(), event.event_type(), tag))
    }
}

#[async_trait]
impl MultiStreamAppends for InMemoryEventStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        check_multi_stream(&multi)?;
        let outcome = self.0.log.write().append_streams(multi)?;
        self.0.appended.notify();
        Ok(outcome)
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        Ok(self.0.log.read().handled.contains_key(delivery))
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let is_wanted = |delivery: &&HandledDelivery| {
            events.iter().any(|(stream, id)| *id == delivery.event_id && *stream == delivery.stream)
        };
        Ok(self.0.log.read().handled.keys().filter(is_wanted).cloned().collect())
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let mut log = self.0.log.write();
        let (before, now) = (log.handled.len(), log.clock.now());
        log.handled.retain(|_, handled_at| now - *handled_at < older_than);
        Ok((before - log.handled.len()) as u64)
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        let log = self.0.log.read();
        Ok(log.commands.get(&(tenant_id, key.clone())).map(|(command, _)| command.clone()))
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        let mut log = self.0.log.write();
        let (before, now) = (log.commands.len(), log.clock.now());
        log.commands.retain(|_, (_, handled_at)| now - *handled_at < older_than);
        Ok((before - log.commands.len()) as u64)
    }
}

#[async_trait]
impl ReadStream for InMemoryEventStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        let stream = stream.clone();
        paged(from, move |from| {
            let page = self.0.log.read().stream_page(&stream, from, direction);
            let last = page.last().map(RecordedEvent::version);
            let next = last.and_then(|last| match direction {
                Direction::Forward => Some(last.next()),
                Direction::Backward => last.get().checked_sub(1).map(Version::new),
            });
            std::future::ready(Ok((page, next)))
        })
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        Ok(self.0.log.read().version(stream))
    }
}

#[async_trait]
impl ReadFeed for InMemoryEventStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        let filter = filter.clone();
        paged(after, move |after| std::future::ready(Ok(self.0.log.read().feed_page(after, through, &filter))))
    }

    async fn head(&self) -> Result<Position, ReadError> {
        Ok(Position::new(self.0.log.read().events.len() as u64))
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        let log = self.0.log.read();
        Ok(log.between(after, through).iter().filter(|event| log.is_wanted(event, filter)).count() as u64)
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<OffsetDateTime>, ReadError> {
        let log = self.0.log.read();
        let first = log.between(after, Position::new(u64::MAX)).first().map(RecordedEvent::metadata);
        Ok(first.map(|event| event.recorded_at().unwrap_or(event.occurred_at())))
    }

    /// Finds none: only this process can write to the memory.
    async fn find_missing_event(&self, _stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        Ok(None)
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        Ok(self.0.id)
    }

    fn appended(&self) -> &AppendSignal {
        &self.0.appended
    }
}

#[async_trait]
impl Checkpoints for InMemoryEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        Ok(self.0.checkpoints.read().get(name).copied())
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        self.0.checkpoints.write().insert(name.clone(), position);
        Ok(())
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.0.checkpoints.write().remove(name);
        Ok(())
    }
}

#[async_trait]
impl Leases for InMemoryEventStore {
    async fn acquire_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Option<Lease>, LeaseError> {
        Ok(self.0.leases.acquire(role, owner, ttl))
    }

    async fn seize_lease(&self, role: &Name, owner: &Name, ttl: Duration) -> Result<Lease, LeaseError> {
        Ok(self.0.leases.seize(role, owner, ttl))
    }

    async fn renew_lease(&self, lease: &Lease, ttl: Duration) -> Result<bool, LeaseError> {
        Ok(self.0.leases.renew(lease, ttl))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), LeaseError> {
        // the lease ends now; its row stays, so that epochs go on growing
        self.0.leases.renew(lease, Duration::ZERO);
        Ok(())
    }

    async fn lease_of(&self, role: &Name) -> Result<Option<Lease>, LeaseError> {
        Ok(self.0.leases.lease_of(role))
    }
}

#[async_trait]
impl Notes for InMemoryEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        Ok(self.0.notes.read().get(name).cloned())
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        self.0.notes.write().insert(name.clone(), text.to_owned());
        Ok(())
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        self.0.notes.write().remove(name);
        Ok(())
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let notes = self.0.notes.read();
        let is_listed = |name: &&Name| name.starts_with(prefix.as_str()) && after.is_none_or(|after| *name > after);
        let mut names: Vec<Name> = notes.keys().filter(is_listed).cloned().collect();
        names.sort_unstable();
        names.truncate(limit);
        Ok(names)
    }
}

#[async_trait]
impl EventTypes for InMemoryEventStore {
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError> {
        let listed = |(event_type, &(schema_version, first_position)): (&Name, &(u32, Position))| StoredEventType {
            event_type: event_type.clone(),
            schema_version,
            first_position,
        };
        Ok(self.0.log.read().types.iter().map(listed).collect())
    }
}

#[async_trait]
impl Snapshots for InMemoryEventStore {
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError> {
        let of_fold =
            |kept: &HashMap<Name, HashMap<_, _>>| kept.get(fold).and_then(|of_fold| of_fold.get(stream)).cloned();
        let snapshot: Option<StoredSnapshot> = of_fold(&self.0.snapshots.read());
        let after = snapshot.as_ref().map_or(Version::NONE, |snapshot| snapshot.version);
        Ok(SnapshotRead { events: self.read_stream(stream, after.next(), Direction::Forward), snapshot })
    }

    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError> {
        let version = self.0.log.read().version(stream);
        if snapshot.version == Version::NONE || snapshot.version > version {
            return Ok(false);
        }
        let mut snapshots = self.0.snapshots.write();
        let of_fold = snapshots.entry(fold.clone()).or_default();
        if of_fold.get(stream).is_some_and(|kept| kept.version >= snapshot.version) {
            return Ok(false);
        }
        of_fold.insert(stream.clone(), snapshot.clone());
        Ok(true)
    }

    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError> {
        let mut snapshots = self.0.snapshots.write();
        Ok(snapshots.get_mut(fold).is_some_and(|of_fold| of_fold.remove(stream).is_some()))
    }

    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError> {
        let removed = self.0.snapshots.write().remove(fold);
        Ok(removed.map_or(0, |of_fold| of_fold.len() as u64))
    }
}

impl EventStore for InMemoryEventStore {
    fn handler_progress(&self) -> Option<&dyn HandlerProgress> {
        Some(self)
    }

    fn notes(&self) -> Option<&dyn Notes> {
        Some(self)
    }

    fn event_types(&self) -> Option<&dyn EventTypes> {
        Some(self)
    }

    fn listings(&self) -> Option<&dyn Listings> {
        Some(self)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn multi_stream_appends(&self) -> Option<&dyn MultiStreamAppends> {
        Some(self)
    }

    fn unique_values(&self) -> Option<&dyn UniqueValues> {
        Some(self)
    }

    fn boundaries(&self) -> Option<&dyn Boundaries> {
        Some(self)
    }
}
