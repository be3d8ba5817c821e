//! A store that the test can hold and damage.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid,
    port::{
        AppendEvents, AppendSignal, CheckpointError, Checkpoints, EventStore, FeedFilter, MissingEvent, ReadError,
        ReadFeed, RecordStream,
    },
    store::FeedEnd,
    testkit::delegate,
};
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

use crate::wait::until;

/// A store whose checkpoints wait for permits, and whose feed may be damaged, or search for ever.
#[derive(Clone)]
pub struct GatedStore {
    pub store: Arc<dyn EventStore>,
    waiting: Arc<AtomicU64>,
    pub loads: Arc<Semaphore>,
    pub saves: Arc<Semaphore>,
    pub is_damaged: Arc<AtomicBool>,
    /// The position of an event that cannot be read; 0 for none.
    pub damaged_at: Arc<AtomicU64>,
    /// Number of reads of that event.
    pub damage_met: Arc<AtomicUsize>,
    pub is_away: Arc<AtomicBool>,
    /// Number of calls for the head that fail from now on.
    pub failures: Arc<AtomicUsize>,
    /// The copy that the feed was restored from.
    pub restored: Arc<OnceLock<InMemoryEventStore>>,
    /// The copy that replaces the feed, over a new connection, when the event at this position is read.
    pub restored_at: Arc<Mutex<Option<(Position, InMemoryEventStore)>>>,
    /// The number of the call for the head, from 1, before whose answer an event is appended.
    pub comes_at: Arc<AtomicU64>,
    /// Set if an event is appended after the next answer with the head, before its caller has it.
    pub comes_after: Arc<AtomicBool>,
    /// Number of calls for the head.
    pub polls: Arc<AtomicUsize>,
    /// A signal that is never sent: as if a different process appended.
    silent: Option<Arc<AppendSignal>>,
    /// Set if the next call for the head gets no answer.
    pub hangs: Arc<AtomicBool>,
    /// Set if no append is open.
    pub has_no_open_append: Arc<AtomicBool>,
    /// Number of positions without an event at the end.
    pub gap: Arc<AtomicU64>,
    /// Number of reads of the feed that panic from now on.
    pub panics: Arc<AtomicUsize>,
    /// One permit for each event that reads of the feed return.
    pub events: Arc<Semaphore>,
    /// Number of events that a read of the feed finds before it searches for ever.
    pub finds: Arc<AtomicUsize>,
    /// Number of reads that search at the moment.
    pub searching: Arc<AtomicUsize>,
    /// Set if the search for a missing event does not end.
    pub searches_missing: Arc<AtomicBool>,
    /// Number of calls for the time of the next event that get an answer.
    pub times: Arc<AtomicUsize>,
}

impl GatedStore {
    pub fn open() -> Self {
        Self::over(InMemoryEventStore::new())
    }

    pub fn over(store: impl EventStore) -> Self {
        Self {
            store: Arc::new(store),
            waiting: Arc::default(),
            loads: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            saves: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            is_damaged: Arc::default(),
            damaged_at: Arc::default(),
            damage_met: Arc::default(),
            is_away: Arc::default(),
            failures: Arc::default(),
            restored: Arc::default(),
            restored_at: Arc::default(),
            comes_at: Arc::default(),
            comes_after: Arc::default(),
            polls: Arc::default(),
            silent: None,
            hangs: Arc::default(),
            has_no_open_append: Arc::default(),
            gap: Arc::default(),
            panics: Arc::default(),
            events: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            finds: Arc::new(AtomicUsize::new(usize::MAX)),
            searching: Arc::default(),
            searches_missing: Arc::default(),
            times: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// Has readers find all events by polls, and read them from the feed.
    pub fn silent(self) -> Self {
        Self { silent: Some(Arc::default()), ..self }
    }

    /// The store that answers reads of the feed.
    fn feed(&self) -> &dyn EventStore {
        match self.restored.get() {
            Some(restored) => restored,
            None => &*self.store,
        }
    }

    /// Replaces the feed if this event is the one before which a copy was to replace it.
    fn restore_at(&self, event: &RecordedEvent) {
        let mut restored_at = self.restored_at.lock().unwrap();
        if let Some((_, copy)) = restored_at.take_if(|(position, _)| event.position() == Some(*position)) {
            self.restored.set(copy).unwrap();
            self.appended().note_possible_restore();
        }
    }

    /// A feed without an end; counts itself while it lives.
    fn search(&self) -> impl futures_util::Stream<Item = Result<RecordedEvent, ReadError>> + Send + use<> {
        let searching = Arc::clone(&self.searching);
        futures_util::stream::once(async move {
            let _searching = Searching::begin(searching);
            std::future::pending().await
        })
    }

    pub async fn until_searching(&self) {
        until("the feed is searched", async || self.searching.load(Ordering::SeqCst) > 0).await;
    }

    async fn append_late(&self) {
        let event = NewEvent::new(Name::from_static("Late"), 1, "{}");
        let stream = StreamId::parse("Order", "late").unwrap();
        self.store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }

    async fn pass(&self, gate: &Semaphore) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        gate.acquire().await.unwrap().forget();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub async fn until_waiting(&self) {
        until("a checkpoint waits", async || self.waiting.load(Ordering::SeqCst) > 0).await;
    }
}

struct Searching(Arc<AtomicUsize>);

impl Searching {
    fn begin(searching: Arc<AtomicUsize>) -> Self {
        searching.fetch_add(1, Ordering::SeqCst);
        Self(searching)
    }
}

impl Drop for Searching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

delegate!(GatedStore, self => self.store; AppendEvents, ReadStream, Leases, EventStore);

#[async_trait]
impl ReadFeed for GatedStore {
    fn read_feed(&self, after: Position, through: Position, filter: &FeedFilter) -> RecordStream<'_> {
        if self.is_damaged.load(Ordering::SeqCst) {
            let (place, source) = ("position 3".into(), "no payload".into());
            return Box::pin(futures_util::stream::iter([Err(ReadError::Corrupt { place, position: None, source })]));
        }
        if self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            panic!("made by the test");
        }
        let damaged_at = self.damaged_at.load(Ordering::SeqCst);
        let damage_met = Arc::clone(&self.damage_met);
        let events = self.feed().read_feed(after, through, filter).map(move |event| match event {
            Ok(event) if event.position() == Some(Position::new(damaged_at)) => {
                damage_met.fetch_add(1, Ordering::SeqCst);
                let (place, source) =
                    (format!("position {damaged_at}"), format!("what is {}?", event.payload()).into());
                Err(ReadError::Corrupt { place, position: None, source })
            }
            event => event.inspect(|event| self.restore_at(event)),
        });
        let permits = Arc::clone(&self.events);
        let events = events.then(move |event| {
            let permits = Arc::clone(&permits);
            async move {
                permits.acquire().await.unwrap().forget();
                event
            }
        });
        let events = events.boxed();
        match self.finds.load(Ordering::SeqCst) {
            usize::MAX => events,
            finds => events.take(finds).chain(self.search()).boxed(),
        }
    }

    async fn feed_end(&self) -> Result<FeedEnd, ReadError> {
        Ok(FeedEnd { head: self.head().await?, has_open_appends: !self.has_no_open_append.load(Ordering::SeqCst) })
    }

    async fn head(&self) -> Result<Position, ReadError> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.swap(false, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.is_damaged.load(Ordering::SeqCst) {
            let (place, source) = ("position 3".into(), "no payload".into());
            return Err(ReadError::Corrupt { place, position: None, source });
        }
        let fails = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails || self.is_away.load(Ordering::SeqCst) {
            return Err(ReadError::Unavailable("away".into()));
        }
        if self.comes_at.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |at| at.checked_sub(1)) == Ok(1) {
            self.append_late().await;
        }
        let head = self.feed().head().await?;
        if self.comes_after.swap(false, Ordering::SeqCst) {
            self.append_late().await;
        }
        Ok(Position::new(head.get() + self.gap.load(Ordering::SeqCst)))
    }

    async fn count_events(&self, after: Position, through: Position, filter: &FeedFilter) -> Result<u64, ReadError> {
        self.feed().count_events(after, through, filter).await
    }

    async fn first_recorded_after(&self, after: Position) -> Result<Option<time::OffsetDateTime>, ReadError> {
        if self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            std::future::pending::<()>().await;
        }
        self.feed().first_recorded_after(after).await
    }

    async fn find_missing_event(&self, stream: Option<&StreamId>) -> Result<Option<MissingEvent>, ReadError> {
        if self.searches_missing.load(Ordering::SeqCst) {
            let _searching = Searching::begin(Arc::clone(&self.searching));
            std::future::pending::<()>().await;
        }
        self.store.find_missing_event(stream).await
    }

    async fn store_id(&self) -> Result<Uuid, ReadError> {
        self.store.store_id().await
    }

    fn appended(&self) -> &AppendSignal {
        self.silent.as_deref().unwrap_or(self.store.appended())
    }
}

#[async_trait]
impl Checkpoints for GatedStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        if self.is_damaged.load(Ordering::SeqCst) {
            return Err(CheckpointError::new(name, "damaged"));
        }
        let loaded = self.store.load_checkpoint(name).await;
        self.pass(&self.loads).await;
        loaded
    }

    async fn save_checkpoint(&self, name: &Name, p: Position) -> Result<(), CheckpointError> {
        self.pass(&self.saves).await;
        self.store.save_checkpoint(name, p).await
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        self.store.delete_checkpoint(name).await
    }
}
