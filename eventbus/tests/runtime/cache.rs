//! States that a repository keeps: what is read, and that they always equal a replay.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use eventbus::{
    AggregateRepository, ExpectedVersion, InMemoryEventStore, Never, NewEvent, RecordedEvent, SaveError, StreamId,
    UpdateError, Uuid, Version,
    port::{Append, AppendError, AppendEvents, Direction, ReadError, ReadFeed as _, ReadStream, RecordStream},
    prelude::*,
    testkit::delegate,
};
use futures_util::StreamExt as _;

/// A room that is booked and left.
#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Room)]
struct Booked {
    #[serde(serialize_with = "write_known")]
    guest: String,
    /// Not stored: what is read back has none.
    #[serde(serialize_with = "write_none")]
    note: Option<String>,
}

fn write_none<S: serde::Serializer>(_note: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

/// Refuses a guest without a name of their own.
fn write_known<S: serde::Serializer>(guest: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if guest == "unnamed" { Err(serde::ser::Error::custom("who is it?")) } else { serializer.serialize_str(guest) }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Room)]
struct Left {}

#[derive(Debug, Default, Clone, PartialEq, Aggregate)]
#[aggregate(events(Booked, Left))]
struct Room {
    guest: Option<String>,
    note: Option<String>,
    bookings: u32,
}

impl Apply for Room {
    fn apply(&mut self, event: &RoomEvent) {
        match event {
            RoomEvent::Booked(event) => {
                (self.guest, self.note) = (Some(event.guest.clone()), event.note.clone());
                self.bookings += 1;
            }
            RoomEvent::Left(_) => self.guest = None,
        }
    }
}

impl Room {
    fn book(&self, guest: &str) -> Result<Booked, &'static str> {
        if self.guest.is_some() { Err("the room is taken") } else { Ok(booked(guest)) }
    }

    fn leave(&self) -> Option<Left> {
        self.guest.as_ref().map(|_| Left {})
    }
}

fn booked(guest: &str) -> Booked {
    Booked { guest: guest.into(), note: None }
}

/// Counts the appends, and the reads of streams with their events. The store behind it can be replaced.
#[derive(Clone)]
struct CountingStore {
    store: Arc<InMemoryEventStore>,
    replaced: Arc<Mutex<Option<Arc<InMemoryEventStore>>>>,
    appends: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
}

impl CountingStore {
    fn new() -> Self {
        let store = Arc::new(InMemoryEventStore::new());
        Self { store, replaced: Arc::default(), appends: Arc::default(), reads: Arc::default(), events: Arc::default() }
    }

    /// Returns the numbers of appends, reads, and events read, since the last call.
    fn take(&self) -> (u64, u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
        (take(&self.appends), take(&self.reads), take(&self.events))
    }
}

delegate!(CountingStore, self => self.store; ReadFeed, Checkpoints, Leases, EventStore);

#[async_trait]
impl AppendEvents for CountingStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        self.store.append(stream, expected, events).await
    }

    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        self.appends.fetch_add(appends.len() as u64, Ordering::SeqCst);
        self.store.append_many(appends).await
    }
}

#[async_trait]
impl ReadStream for CountingStore {
    fn read_stream(&self, stream: &StreamId, from: Version, direction: Direction) -> RecordStream<'_> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let events = Arc::clone(&self.events);
        let count = move |_: &_| {
            events.fetch_add(1, Ordering::SeqCst);
        };
        if let Some(store) = self.replaced.lock().unwrap().clone() {
            let stream = stream.clone();
            return Box::pin(async_stream(store, stream, from, direction).inspect(count));
        }
        self.store.read_stream(stream, from, direction).inspect(count).boxed()
    }

    async fn stream_version(&self, stream: &StreamId) -> Result<Version, ReadError> {
        self.store.stream_version(stream).await
    }
}

/// Reads a stream of a store that the result owns.
fn async_stream(
    store: Arc<InMemoryEventStore>,
    stream: StreamId,
    from: Version,
    direction: Direction,
) -> impl futures_util::Stream<Item = Result<RecordedEvent, ReadError>> {
    futures_util::stream::once(async move {
        let events: Vec<_> = store.read_stream(&stream, from, direction).collect().await;
        futures_util::stream::iter(events)
    })
    .flatten()
}

struct World {
    store: CountingStore,
    rooms: AggregateRepository<Room>,
    /// A writer in a process of its own, without a cache.
    other: AggregateRepository<Room>,
    id: AggregateId,
}

async fn world() -> World {
    let store = CountingStore::new();
    let other = AggregateRepository::<Room>::new(store.store.clone());
    let rooms = AggregateRepository::<Room>::new(store.clone()).with_cache(100);
    let id = "12".parse().unwrap();
    rooms.upsert(&id, |room| room.book("ada")).await.unwrap();
    store.take();
    World { store, rooms, other, id }
}

impl World {
    /// Compares a load with a replay of all events.
    async fn equals_replay(&self) {
        let (kept, replayed) = (self.rooms.load(&self.id).await.unwrap(), self.other.load(&self.id).await.unwrap());
        assert_eq!((kept.state(), kept.version()), (replayed.state(), replayed.version()));
    }
}

#[tokio::test]
async fn an_update_of_a_kept_state_is_one_append() {
    let world = world().await;
    for _ in 0..10 {
        world.rooms.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
        world.rooms.update(&world.id, |room| room.book("bob")).await.unwrap();
    }
    assert_eq!(world.store.take(), (20, 0, 0), "appends, reads, events read");
    world.equals_replay().await;
}

/// The server may have lost the last events, and a second process may have stored different ones since.
#[tokio::test]
async fn a_state_kept_before_a_possible_restore_of_the_store_is_read_anew() {
    let world = world().await;
    let note_possible_restore = || world.store.store.appended().note_possible_restore();
    note_possible_restore();
    world.rooms.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    assert_eq!(world.store.take(), (1, 1, 1), "appends, reads, events read");
    world.rooms.update(&world.id, |room| room.book("bob")).await.unwrap();
    assert_eq!(world.store.take(), (1, 0, 0), "it is kept again");
    let mut room = world.rooms.load(&world.id).await.unwrap();
    note_possible_restore();
    room.record(Left {});
    world.rooms.save(&mut room).await.unwrap();
    world.store.take();
    world.equals_replay().await;
    assert_eq!(world.store.take(), (0, 1, 4), "the save did not make the state of before a newer one");
}

#[tokio::test]
async fn a_load_reads_what_is_newer_and_the_last_event_it_knows() {
    let world = world().await;
    world.other.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    assert_eq!(world.rooms.load(&world.id).await.unwrap().guest, None);
    assert_eq!(world.store.take(), (0, 1, 2));
    world.equals_replay().await;
    assert_eq!(world.store.take(), (0, 1, 1));
}

#[tokio::test]
async fn a_decision_on_a_state_that_others_changed_is_made_again() {
    let world = world().await;
    world.other.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    // the kept state refuses, the stored one does not
    world.rooms.update(&world.id, |room| room.book("bob")).await.unwrap();
    assert_eq!(world.store.take(), (1, 1, 2));
    world.other.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    // the kept state has an event to save, the stored one has none: the append conflicts, and no delay follows
    let saved = world.rooms.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    assert_eq!((saved.version.get(), world.store.take()), (4, (1, 1, 2)));
    world.other.update(&world.id, |room| room.book("eve")).await.unwrap();
    // the kept state has no event to save, the stored one has
    world.rooms.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    assert_eq!(world.store.take(), (1, 1, 2));
    let refused = world.rooms.update(&world.id, |room| if room.guest.is_none() { Err("free") } else { Ok(Left {}) });
    assert_eq!(refused.await.unwrap_err().refused(), Some(&"free"), "the store has no newer event");
    world.equals_replay().await;
}

#[tokio::test]
async fn an_event_that_only_a_left_behind_state_makes_unencodable_is_decided_again() {
    let world = world().await;
    let book = |room: &Room| Ok::<_, Never>(booked(if room.guest.is_some() { "unnamed" } else { "eve" }));
    let error = world.rooms.update(&world.id, book).await.unwrap_err();
    assert!(matches!(error, UpdateError::Save(SaveError::Encode(_))), "the stored state says the same: {error}");
    world.other.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    world.store.take();
    world.rooms.update(&world.id, book).await.unwrap();
    assert_eq!(world.store.take(), (1, 1, 2));
    world.equals_replay().await;
}

#[tokio::test]
async fn a_kept_state_is_that_of_the_stored_events() {
    let world = world().await;
    world.rooms.update(&world.id, |room| Ok::<_, Never>(room.leave())).await.unwrap();
    let with_note = |_: &Room| Ok::<_, Never>(Booked { guest: "bob".into(), note: Some("late".into()) });
    world.rooms.update(&world.id, with_note).await.unwrap();
    assert_eq!(world.rooms.load(&world.id).await.unwrap().note, None, "the note is not stored");
    world.equals_replay().await;
}

#[tokio::test]
async fn the_states_that_were_used_last_are_kept() {
    let store = CountingStore::new();
    let rooms = AggregateRepository::<Room>::new(store.clone()).with_cache(2);
    let ids: Vec<AggregateId> = ["1", "2", "3"].map(|id| id.parse().unwrap()).into();
    for id in &ids {
        rooms.upsert(id, |room| room.book("ada")).await.unwrap();
    }
    store.take();
    for (id, reads) in [(&ids[2], 0), (&ids[1], 0), (&ids[0], 1), (&ids[1], 0), (&ids[2], 1)] {
        rooms.update(id, |room| Ok::<_, Never>((Left {}, room.leave()))).await.unwrap();
        assert_eq!(store.take().1, reads, "room {id}");
    }
    let without = AggregateRepository::<Room>::new(store.clone()).with_cache(0);
    for _ in 0..2 {
        without.update(&ids[0], |_| Ok::<_, Never>(Left {})).await.unwrap();
    }
    assert_eq!(store.take().1, 2);
}

#[tokio::test]
async fn a_cache_takes_memory_for_the_states_that_it_keeps_only() {
    let store = CountingStore::new();
    let rooms = AggregateRepository::<Room>::new(store.clone()).with_cache(usize::MAX);
    let id = "12".parse().unwrap();
    for (guest, reads) in [("ada", 1), ("bob", 0)] {
        rooms.upsert(&id, |_| Ok::<_, Never>(booked(guest))).await.unwrap();
        assert_eq!(store.take().1, reads, "{guest}");
    }
}

#[tokio::test]
async fn states_of_tenants_are_kept_apart() {
    let world = world().await;
    let [one, other] = [1, 2].map(|tenant| world.rooms.for_tenant(Uuid::from_u128(tenant)));
    one.upsert(&world.id, |room| room.book("bob")).await.unwrap();
    other.upsert(&world.id, |room| room.book("eve")).await.unwrap();
    let guest = async |rooms: &AggregateRepository<Room>| rooms.load(&world.id).await.unwrap().guest.clone();
    assert_eq!(guest(&one).await.as_deref(), Some("bob"));
    assert_eq!(guest(&other).await.as_deref(), Some("eve"));
    assert_eq!(guest(&world.rooms).await.as_deref(), Some("ada"));
}

#[tokio::test]
async fn a_stream_that_is_not_the_same_any_more_is_read_anew() {
    let world = world().await;
    let _ = world.rooms.load(&world.id).await.unwrap();
    let restored = InMemoryEventStore::new();
    AggregateRepository::<Room>::new(restored.clone()).upsert(&world.id, |room| room.book("eve")).await.unwrap();
    *world.store.replaced.lock().unwrap() = Some(Arc::new(restored));
    assert_eq!(world.rooms.load(&world.id).await.unwrap().guest.as_deref(), Some("eve"), "one other event");
    *world.store.replaced.lock().unwrap() = Some(Arc::new(InMemoryEventStore::new()));
    assert!(world.rooms.find(&world.id).await.unwrap().is_none(), "no event");
}
