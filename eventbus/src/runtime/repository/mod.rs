//! The repository: loads and saves aggregates.

mod error;
mod save_publisher;
mod saved;
mod update;
mod update_future;

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

pub use error::{LoadError, SaveError, UpdateError};
use futures_util::TryStreamExt;
pub use saved::{Publication, Saved};
pub use update_future::UpdateFuture;

use self::save_publisher::SavePublisher;
use crate::{
    domain::{
        aggregate::{Aggregate, AggregateRoot, Apply},
        clock::SharedClock,
        context::EventContext,
        record::{EncodeEvent, EventSet, NewEvent},
        stream::{AggregateId, ExpectedVersion, Version},
    },
    port::{AppendError, Direction, EventBus, EventStore, RetryPolicy},
};

/// Retries of an update after a conflict with a concurrent writer: count and delays.
const CONFLICT_RETRY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(10),
    first_delay: Duration::from_millis(2),
    max_delay: Duration::from_millis(200),
};

/// Loads aggregates of one type from a store, and saves the events that they recorded. Cloning is cheap.
///
/// It works alone with any store. The relay of an app publishes all events of its store, also those that a repository
/// outside of the app saved: before the app starts, in a handler that takes it as [`State`](crate::State), or in a
/// different process.
///
/// # Examples
/// ```
/// # use eventbus::{AggregateRepository, InMemoryEventStore, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Counter)]
/// # struct Counted { by: u32 }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Counted))]
/// # struct Counter { total: u32 }
/// # impl Apply for Counter {
/// #     fn apply(&mut self, event: &CounterEvent) { let CounterEvent::Counted(e) = event; self.total += e.by; }
/// # }
/// # impl Counter {
/// #     fn count(&self, by: u32) -> Result<Counted, &'static str> { Ok(Counted { by }) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// let counters = AggregateRepository::<Counter>::new(InMemoryEventStore::new());
/// let mut counter = counters.create(AggregateId::new());
/// counter.record(counter.count(2)?);
/// counters.save(&mut counter).await?;
/// counters.update(counter.id(), |counter| counter.count(3)).await?;
/// assert_eq!(counters.load(counter.id()).await?.total, 5);
/// # Ok(())
/// # }
/// ```
pub struct AggregateRepository<A: Aggregate> {
    store: Arc<dyn EventStore>,
    publisher: SavePublisher,
    context: EventContext,
    conflict_retry: RetryPolicy,
    clock: SharedClock,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Apply> AggregateRepository<A> {
    /// Creates a repository on `store`, without a bus.
    pub fn new(store: impl EventStore) -> Self {
        Self::with_publisher(Arc::new(store), SavePublisher::None)
    }

    pub(crate) fn for_app(store: Arc<dyn EventStore>, has_relay: bool, clock: SharedClock) -> Self {
        Self::with_publisher(store, if has_relay { SavePublisher::Relay } else { SavePublisher::None })
            .with_clock(clock)
    }

    fn with_publisher(store: Arc<dyn EventStore>, publisher: SavePublisher) -> Self {
        Self {
            store,
            publisher,
            context: EventContext::default(),
            conflict_retry: CONFLICT_RETRY,
            clock: SharedClock::SYSTEM,
            aggregate: PhantomData,
        }
    }

    /// Publishes to `bus` after each save: the plain form, for programs without a relay.
    ///
    /// A crash between saving and publishing leaves events unpublished. [`Saved::publication`] reports a failed
    /// publish, which is never a failed save. If a relay publishes the store to the same destination, the
    /// repository refuses to publish.
    #[must_use]
    pub fn publish_to(mut self, bus: impl EventBus) -> Self {
        self.publisher = SavePublisher::to_bus(Arc::new(bus));
        self
    }

    /// Returns a clone that stamps its saves with `context`.
    #[must_use]
    pub fn with_context(&self, context: EventContext) -> Self {
        Self { context, ..self.clone() }
    }

    /// Retries updates after a conflict as `policy` says; by default 10 times within about a second.
    #[must_use]
    pub fn with_conflict_retries(mut self, policy: RetryPolicy) -> Self {
        self.conflict_retry = policy;
        self
    }

    /// Takes the ids of events, the time at which they occurred, and the delays between retries from this clock; by
    /// default from the machine's. A repository of an app has the app's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Into<SharedClock>) -> Self {
        self.clock = clock.into();
        self
    }

    /// Creates a new aggregate; the store has no event of it before a save.
    #[must_use]
    pub fn create(&self, id: AggregateId) -> AggregateRoot<A> {
        AggregateRoot::<A>::new(id).with_clock(self.clock.clone())
    }

    /// Loads an aggregate.
    ///
    /// # Errors
    /// [`LoadError::NotFound`] if it has no events; [`LoadError::Decode`] if one of them does not fit;
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn load(&self, id: &AggregateId) -> Result<AggregateRoot<A>, LoadError> {
        self.find(id).await?.ok_or_else(|| LoadError::NotFound { stream: A::stream(id) })
    }

    /// Loads an aggregate, if it has events.
    ///
    /// # Errors
    /// As for [`load`](Self::load), except that not found is `None`.
    pub async fn find(&self, id: &AggregateId) -> Result<Option<AggregateRoot<A>>, LoadError> {
        let root = self.fold(id, Version::MAX).await?;
        Ok((root.version() > Version::NONE).then_some(root))
    }

    /// Loads an aggregate as it was at `version`.
    ///
    /// Saving it conflicts if it has newer events.
    ///
    /// # Errors
    /// As for [`load`](Self::load), and [`LoadError::VersionNotReached`] if it has fewer events.
    pub async fn load_at(&self, id: &AggregateId, version: Version) -> Result<AggregateRoot<A>, LoadError> {
        let root = self.fold(id, version).await?;
        match root.version() {
            Version::NONE => Err(LoadError::NotFound { stream: A::stream(id) }),
            actual if actual < version => {
                Err(LoadError::VersionNotReached { stream: A::stream(id), wanted: version, actual })
            }
            _ => Ok(root),
        }
    }

    /// Returns `true` if the aggregate has events.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn exists(&self, id: &AggregateId) -> Result<bool, LoadError> {
        Ok(self.version(id).await? > Version::NONE)
    }

    /// Returns the number of events of an aggregate, without loading it; 0 if it has none.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn version(&self, id: &AggregateId) -> Result<Version, LoadError> {
        Ok(self.store.stream_version(&A::stream(id)).await?)
    }

    /// Stores the pending events of `root`, if no other writer appended to its stream since it was loaded.
    ///
    /// Afterwards no event is pending; after an error all still are. Events keep their ids, so saving again after an
    /// unknown outcome stores them once. If `root` recorded more events in between, the store refuses
    /// ([`AppendError::EventIdTaken`]): load the aggregate anew. Without pending events it returns at once.
    ///
    /// # Errors
    /// [`SaveError::Append`] with a conflict if a concurrent writer was first, or because the store could not be
    /// reached; [`SaveError::Encode`] if an event cannot be written. No event is stored unless the outcome is unknown.
    pub async fn save(&self, root: &mut AggregateRoot<A>) -> Result<Saved, SaveError> {
        if root.pending().is_empty() {
            return Ok(Saved::nothing(root.version()));
        }
        let events = self.encode(root)?;
        let records = self.append(root, events).await?;
        root.mark_saved(root.version().plus(records.len()));
        let publication = self.publisher.publish(&self.store, &records).await;
        Ok(Saved::new(root.version(), records, publication))
    }

    /// Folds the events up to `last` into a new root.
    async fn fold(&self, id: &AggregateId, last: Version) -> Result<AggregateRoot<A>, LoadError> {
        let stream = A::stream(id);
        let mut root = self.create(id.clone());
        let mut records = self.store.read_stream(&stream, Version::FIRST, Direction::Forward);
        while let Some(record) = records.try_next().await? {
            if record.version() > last {
                break;
            }
            let event = A::Event::decode(&record).map_err(|source| LoadError::Decode {
                stream: stream.clone(),
                version: record.version(),
                source,
            })?;
            root.replay(&event, record.version());
        }
        Ok(root)
    }

    /// Encodes the events of one save. They share one correlation id: that of the context, else a new one.
    fn encode(&self, root: &AggregateRoot<A>) -> Result<Vec<NewEvent>, SaveError> {
        let mut context = self.context.clone();
        context.correlation_id.get_or_insert_with(|| self.clock.new_id());
        let encode = |(event, id): (&A::Event, _)| {
            let event = event.encode()?.with_event_id(id).with_occurred_at(self.clock.now());
            Ok(event.with_context(context.clone()))
        };
        root.pending_with_ids().map(encode).collect()
    }

    /// Appends; resolves an unknown outcome by appending the same event ids again.
    async fn append(
        &self,
        root: &AggregateRoot<A>,
        events: Vec<NewEvent>,
    ) -> Result<Vec<crate::RecordedEvent>, AppendError> {
        const OUTCOME_RETRY: RetryPolicy = RetryPolicy {
            retry_for: Duration::MAX,
            max_retries: Some(3),
            first_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(1),
        };
        let (stream, expected) = (A::stream(root.id()), ExpectedVersion::Exact(root.version()));
        let mut attempt = 0;
        loop {
            let error = match self.store.append(&stream, expected, events.clone()).await {
                Err(AppendError::OutcomeUnknown(error)) => error,
                // this attempt stored no event, but the outcome of the first one is still unknown
                Err(AppendError::Unavailable(error)) if attempt > 0 => error,
                outcome => return outcome,
            };
            if !OUTCOME_RETRY.allows(attempt + 1) {
                return Err(AppendError::OutcomeUnknown(error));
            }
            attempt += 1;
            tracing::warn!(%stream, %error, "append outcome unknown, appending the same event ids again");
            self.clock.sleep(OUTCOME_RETRY.jittered(attempt)).await;
        }
    }
}

impl<A: Aggregate> Clone for AggregateRepository<A> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            publisher: self.publisher.clone(),
            context: self.context.clone(),
            conflict_retry: self.conflict_retry,
            clock: self.clock.clone(),
            aggregate: PhantomData,
        }
    }
}

impl<A: Aggregate> fmt::Debug for AggregateRepository<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AggregateRepository").field("aggregate_type", &A::AGGREGATE_TYPE).finish_non_exhaustive()
    }
}
