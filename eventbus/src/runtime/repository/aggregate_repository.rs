//! The repository and its updates: it loads and saves aggregates; an update loads, decides and saves, and begins again
//! after a conflict.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{
    command::{KeyedCommand, SavedEvents},
    error::{FindByError, HistoryError, LoadError, OnceError, SaveError, TakeSnapshotError, UpdateError},
    history::{HistoryStep, StateDiff},
    outcome,
    pending_events::encode_pending,
    repository_store::RepositoryStore,
    save_publisher::SavePublisher,
    saved::Saved,
    snapshot_tasks::SnapshotTasks,
    state_cache::{CachedState, StateCache},
    unique::{self, TakenValues},
};
use crate::{
    domain::{
        aggregate::{Aggregate, AggregateRoot, Apply, IntoEvents},
        clock::SharedClock,
        codec::EventFields,
        context::EventContext,
        error::{Error, ErrorLine},
        field_text::FieldText,
        idempotency_key::IdempotencyKey,
        metadata::EventId,
        name::Name,
        record::{FoldedEvent as _, NewEvent, RecordedEvent},
        snapshot_codec::SnapshotCodec,
        stream::{StreamId, Version, known_tenant},
    },
    port::{
        AppendError, EventBus, EventStore, MultiStreamAppends, ReadError, RecordStream, SnapshotRead, Snapshots,
        StoredSnapshot,
        handler_saves::HandlerSaves,
        multi_stream_append::HandledCommand,
        retry::{Retries, RetryPolicy},
        visited_event::VisitedEvent,
    },
    runtime::metrics::{AggregateMeter, AppendOutcome, LoadSource, Meters},
    support::spans,
};

/// Retries of an update after a conflict with a concurrent writer: count and delays.
pub(crate) const CONFLICT_RETRY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: Some(10),
    first_delay: Duration::from_millis(2),
    max_delay: Duration::from_millis(200),
};

/// Loads aggregates of one type from a store, and saves the events that they recorded. Cloning is cheap.
///
/// It works with any store, also without an app. The relay of an app publishes all events of its store, also those that
/// a repository outside of the app saved: before the app started, in a handler that takes it as
/// [`State`](crate::State), or in a different process.
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
/// let mut counter = counters.create_new(AggregateId::new());
/// counter.record(counter.count(2)?);
/// counters.save(&mut counter).await?;
/// counters.update(counter.id(), |counter| counter.count(3)).await?;
/// assert_eq!(counters.load(counter.id()).await?.total, 5);
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug)]
#[debug("AggregateRepository {{ aggregate_type: {:?}, .. }}", A::AGGREGATE_TYPE)]
#[must_use]
pub struct AggregateRepository<A: Aggregate> {
    store: RepositoryStore,
    publisher: SavePublisher,
    tenant_id: Option<Uuid>,
    context: EventContext,
    conflict_retry: RetryPolicy,
    clock: SharedClock,
    cache: Option<Arc<StateCache<A>>>,
    snapshot_tasks: SnapshotTasks,
    /// Notified by each command with a key.
    first_command: Arc<Notify>,
    /// The counters of its app; without an app they do not count.
    meters: Meters,
    aggregate_meter: Option<Arc<AggregateMeter>>,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate + Apply> AggregateRepository<A> {
    /// Creates a repository on `store`, without a bus.
    pub fn new(store: impl EventStore) -> Self {
        Self::with_publisher(Arc::new(store), SavePublisher::None)
    }

    pub(crate) fn for_app(
        store: Arc<dyn EventStore>,
        has_relay: bool,
        clock: SharedClock,
        snapshot_tasks: SnapshotTasks,
        first_command: Arc<Notify>,
        meters: Meters,
    ) -> Self {
        let publisher = if has_relay { SavePublisher::Relay } else { SavePublisher::None };
        let aggregate_meter = meters.aggregate(A::AGGREGATE_TYPE);
        let plain = Self::with_publisher(store, publisher);
        Self { snapshot_tasks, first_command, clock, meters, aggregate_meter, ..plain }
    }

    fn with_publisher(store: Arc<dyn EventStore>, publisher: SavePublisher) -> Self {
        Self {
            store: RepositoryStore::new(store),
            publisher,
            tenant_id: None,
            context: EventContext::default(),
            conflict_retry: CONFLICT_RETRY,
            clock: SharedClock::SYSTEM,
            cache: None,
            snapshot_tasks: SnapshotTasks::default(),
            first_command: Arc::default(),
            meters: Meters::default(),
            aggregate_meter: None,
            aggregate: PhantomData,
        }
    }

    /// Publishes to `bus` after each save: for programs without a relay.
    ///
    /// Events stay unpublished if the process crashes between saving and publishing, or if the future of the save is
    /// dropped there: axum drops a handler whose client disconnects. Make the save in a task of its own (`tokio::spawn`)
    /// where this must not happen. [`Saved::publication`] reports a failed publish, which is never a failed save.
    ///
    /// If a relay publishes the store to the same destination, the repository refuses to publish. It looks for one before
    /// it publishes, at most once a second.
    pub fn publish_to(self, bus: impl EventBus) -> Self {
        Self { publisher: SavePublisher::to_bus(Arc::new(bus)), ..self }
    }

    /// Returns a clone for the aggregates of one tenant: it loads only these, and all its saves belong to the tenant.
    /// `None` and the nil UUID mean no tenant, as in a new repository.
    ///
    /// Aggregates of different tenants are different aggregates, even if they have the same id.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{AggregateRepository, InMemoryEventStore, Never, Uuid, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Room)]
    /// # struct Booked { guest: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Booked))]
    /// # struct Room { guest: String }
    /// # impl Apply for Room {
    /// #     fn apply(&mut self, RoomEvent::Booked(booked): &RoomEvent) { self.guest = booked.guest.clone(); }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let rooms = AggregateRepository::<Room>::new(InMemoryEventStore::new());
    /// let (of_hotel_a, of_hotel_b) = (rooms.for_tenant(Uuid::from_u128(1)), rooms.for_tenant(Uuid::from_u128(2)));
    /// let id = "12".parse()?;
    /// of_hotel_a.upsert(&id, |_| Ok::<_, Never>(Booked { guest: "ada".into() })).await?;
    /// assert!(of_hotel_b.find(&id).await?.is_none()); // the other hotel has a room 12 of its own
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_tenant(&self, tenant_id: impl Into<Option<Uuid>>) -> Self {
        Self { tenant_id: known_tenant(tenant_id.into()), ..self.clone() }
    }

    /// Returns a clone that stamps its saves with `context`. It refuses to save if the context names a different tenant
    /// than the [repository's](Self::for_tenant).
    pub fn with_context(&self, context: EventContext) -> Self {
        Self { context, ..self.clone() }
    }

    /// Retries updates after a conflict as `policy` says; by default 10 times within about a second.
    pub fn with_conflict_retries(self, policy: RetryPolicy) -> Self {
        Self { conflict_retry: policy, ..self }
    }

    /// Uses this clock for the ids of events, the time at which they occurred, and the delays between retries; by
    /// default the machine's. A repository of an app has the app's clock.
    pub fn with_clock(self, clock: impl Into<SharedClock>) -> Self {
        Self { clock: clock.into(), ..self }
    }

    /// Caches the states of the `capacity` aggregates that were used last; 0 caches none. The clones of the repository
    /// share the cache, also those for a tenant. Keep the repository: a new one begins with an empty cache.
    ///
    /// A load always asks the store, but reads only the events from the cached version on. An update decides on the
    /// cached state without a read, so it takes one round trip: the save. If another writer was first, or the decision
    /// refuses or returns no events, the update reads the newer events and decides again.
    ///
    /// After each new connection the repository reads states anew, since the server may lack the last events. But an
    /// update that is the first call after a failover may still decide on a state that the server has lost. If the
    /// store was restored from an older copy, restart the processes: it has other events under the same versions.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{AggregateRepository, InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// #[derive(Debug, Clone, Default, Aggregate)] // `Clone`: for the cache
    /// #[aggregate(events(Deposited))]
    /// struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, AccountEvent::Deposited(e): &AccountEvent) { self.balance += e.cents; }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new()).with_cache(10_000);
    /// let id = "ada".parse()?;
    /// for cents in 1..=100 {
    ///     accounts.upsert(&id, |_| Ok::<_, Never>(Deposited { cents })).await?; // from the second on: one append
    /// }
    /// assert_eq!(accounts.load(&id).await?.balance, 5_050);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_cache(self, capacity: usize) -> Self
    where
        A: Clone,
    {
        // in a handler a state may hold events that are never stored
        let capacity = NonZeroUsize::new(capacity).filter(|_| !self.store.is_in_handler());
        Self { cache: capacity.map(|capacity| Arc::new(StateCache::new(capacity))), ..self }
    }

    /// Returns a clone whose saves wait for the end of a handler.
    pub(super) fn in_handler(&self, saves: Arc<HandlerSaves>) -> Self {
        Self { store: self.store.in_handler(saves), cache: None, ..self.clone() }
    }

    fn outside_of_handler(&self) -> Self {
        Self { store: self.store.outside_of_handler(), ..self.clone() }
    }

    /// Creates a new aggregate in memory, to record events on and then [`save`](Self::save) it.
    /// [`create`](Self::create) decides and saves the first events in one call.
    pub fn create_new(&self, id: A::Id) -> AggregateRoot<A> {
        AggregateRoot::<A>::new(id).with_tenant_id(self.tenant_id).with_clock(self.clock.clone())
    }

    /// Names the stream of an aggregate of the repository's tenant.
    fn stream(&self, id: &A::Id) -> StreamId {
        A::stream(id).with_tenant_id(self.tenant_id)
    }

    /// Loads an aggregate.
    ///
    /// # Errors
    /// [`LoadError::NotFound`] if it has no events; [`LoadError::Decode`] if one of them does not fit;
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn load(&self, id: &A::Id) -> Result<AggregateRoot<A>, LoadError> {
        self.find(id).await?.ok_or_else(|| LoadError::NotFound { stream: self.stream(id) })
    }

    /// Loads an aggregate, if it has events.
    ///
    /// # Errors
    /// As for [`load`](Self::load), except that not found is `None`.
    pub async fn find(&self, id: &A::Id) -> Result<Option<AggregateRoot<A>>, LoadError> {
        let root = self.fold_to_head(id).await?;
        Ok((root.version() > Version::NONE).then_some(root))
    }

    /// Loads the aggregate that holds a unique value, which an event declares by `#[event(unique(email))]`. `value` is
    /// normalized like the values of events.
    ///
    /// In a handler it finds what is stored, but not what the handler itself saves.
    ///
    /// # Errors
    /// As for [`load`](Self::load); [`FindByError::UnknownName`] if no event of the aggregate has a unique value of this
    /// name, [`FindByError::Unsupported`] if the store has none.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::{InMemoryEventStore, Never, prelude::*};
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate = User, unique(email, normalize = str::to_lowercase))]
    /// struct Registered { email: String }
    ///
    /// #[derive(Debug, Default, Aggregate)]
    /// #[aggregate(events(Registered))]
    /// struct User { email: String }
    ///
    /// impl Apply for User {
    ///     fn apply(&mut self, UserEvent::Registered(event): &UserEvent) { self.email.clone_from(&event.email); }
    /// }
    ///
    /// impl User {
    ///     fn register(&self, email: &str) -> Result<Registered, Never> { Ok(Registered { email: email.into() }) }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// let users = AggregateRepository::<User>::new(InMemoryEventStore::new());
    /// users.create_with(&"ada".parse()?, "Ada@example.org", User::register).await?;
    /// let error = users.create_with(&"eve".parse()?, "ada@example.org", User::register).await.unwrap_err();
    /// assert!(error.is_taken("email"));
    /// let ada = users.find_by("email", "ADA@example.org").await?;
    /// assert_eq!(ada.map(|ada| ada.id().to_string()).as_deref(), Some("ada"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn find_by(&self, name: &str, value: impl FieldText) -> Result<Option<AggregateRoot<A>>, FindByError> {
        let holder = unique::find_holder::<A>(&**self.store.as_port(), self.tenant_id, name, &value).await?;
        let Some(holder) = holder else { return Ok(None) };
        Ok(self.find(&holder.aggregate_id().clone().into()).await?)
    }

    /// Takes the unique values of the stored events of this aggregate type, in all tenants. Reports the progress after
    /// each aggregate, and at the end.
    ///
    /// Call it once after you have added a `unique` value to an event or changed its `normalize`, when no process of
    /// the former release runs any more. Saves may run meanwhile: if a save takes a value first, the value is a
    /// duplicate. You may call it again. If two aggregates have the same value, the one whose first event with unique
    /// values comes first in the feed holds it. The other one is in [`duplicates`](TakenValues::duplicates): it keeps
    /// its events, and holds no value until one of them changes.
    ///
    /// # Errors
    /// The error of an event that cannot be decoded, or of the store; values that were taken by then stay taken.
    pub async fn take_unique_values(&self, progress: impl FnMut(&TakenValues)) -> Result<TakenValues, Error> {
        unique::take_unique_values::<A>(&**self.store.as_port(), progress).await
    }

    /// Loads an aggregate as it was at `version`.
    ///
    /// Saving it conflicts if the aggregate has newer events.
    ///
    /// # Errors
    /// As for [`load`](Self::load), and [`LoadError::VersionNotReached`] if it has fewer events. At version 0, before
    /// the first event, the aggregate is not found.
    pub async fn load_at(&self, id: &A::Id, version: Version) -> Result<AggregateRoot<A>, LoadError> {
        let root = self.fold(id, |record| record.version() <= version).await?;
        match root.version() {
            Version::NONE => Err(LoadError::NotFound { stream: self.stream(id) }),
            actual if actual < version => {
                Err(LoadError::VersionNotReached { stream: self.stream(id), wanted: version, actual })
            }
            _ => Ok(root),
        }
    }

    /// Loads an aggregate as it was at a time: with the events that the store had recorded until then.
    ///
    /// The type of `time` comes from the crate `time`; a `std::time::SystemTime` converts to it with `.into()`. What
    /// counts is when the store recorded an event, not when the event [occurred](crate::Metadata::occurred_at): the
    /// recorded time never decreases along a stream. An imported event counts from its import.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{AggregateRepository, InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Deposited))]
    /// # struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, AccountEvent::Deposited(e): &AccountEvent) { self.balance += e.cents; }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new());
    /// # let id = "ada".parse()?;
    /// # accounts.upsert(&id, |_| Ok::<_, Never>(Deposited { cents: 120 })).await?;
    /// let now = time::OffsetDateTime::now_utc();
    /// # tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    /// accounts.upsert(&id, |_| Ok::<_, Never>(Deposited { cents: 30 })).await?;
    /// assert_eq!(accounts.load_as_of(&id, now).await?.balance, 120);
    /// assert!(accounts.load_as_of(&id, time::macros::datetime!(2020-01-01 0:00 UTC)).await.unwrap_err().is_not_found());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`load`](Self::load); [`LoadError::NotFound`] also if it had no events by then.
    pub async fn load_as_of(&self, id: &A::Id, time: OffsetDateTime) -> Result<AggregateRoot<A>, LoadError> {
        let is_included = |record: &RecordedEvent| record.metadata().recorded_at().is_none_or(|at| at <= time);
        let root = self.fold(id, is_included).await?;
        match root.version() {
            Version::NONE => Err(LoadError::NotFound { stream: self.stream(id) }),
            _ => Ok(root),
        }
    }

    /// Loads all events of an aggregate, each with the changes that it made to the state: paths in the state's JSON
    /// form, with the values before and after.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{AggregateRepository, InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// #[derive(Debug, Default, Serialize, Aggregate)] // `Serialize`: for its history
    /// #[aggregate(events(Deposited))]
    /// struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, AccountEvent::Deposited(e): &AccountEvent) { self.balance += e.cents; }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new());
    /// # let id = "ada".parse()?;
    /// accounts.upsert(&id, |_| Ok::<_, Never>([Deposited { cents: 120 }, Deposited { cents: 30 }])).await?;
    /// for step in accounts.history(&id).await? {
    ///     println!("{}: {}", step.metadata.event_type(), step.changes[0]); // Deposited: balance: 0 → 120
    /// #   assert!(["balance: 0 → 120", "balance: 120 → 150"].contains(&&*step.changes[0].to_string()));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HistoryError::Load`] as for [`load`](Self::load); [`HistoryError::State`] if a state cannot be written as JSON.
    // no `async fn`: its future would repeat the bound, and the compiler its error at each use of the future
    pub fn history<'a>(&'a self, id: &'a A::Id) -> BoxFuture<'a, Result<Vec<HistoryStep<A::Event>>, HistoryError>>
    where
        A: Serialize,
    {
        Box::pin(async move {
            let stream = self.stream(id);
            let state_error = |version, source| HistoryError::State { stream: self.stream(id), version, source };
            let mut root = self.create_new(id.clone());
            let mut diff = StateDiff::new(root.state()).map_err(|source| state_error(Version::NONE, source))?;
            let mut records = self.store.read_stream(&stream, Version::FIRST);
            let mut steps = Vec::new();
            while let Some(record) = records.try_next().await.map_err(LoadError::from)? {
                let event = self.replay(&mut root, &record)?;
                let changes = diff.advance(root.state()).map_err(|source| state_error(record.version(), source))?;
                steps.push(HistoryStep { event, metadata: record.metadata().clone(), changes });
            }
            if steps.is_empty() { Err(LoadError::NotFound { stream }.into()) } else { Ok(steps) }
        })
    }

    /// Takes a snapshot of an aggregate now, and returns its version. With `#[aggregate(.., snapshot(every = 100))]`, a
    /// repository also takes one in the background after every 100 events.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{AggregateRepository, InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// #[derive(Debug, Default, Serialize, Deserialize, Aggregate)] // both, for its snapshots
    /// #[aggregate(events(Deposited), snapshot(every = 100))]
    /// struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, AccountEvent::Deposited(e): &AccountEvent) { self.balance += e.cents; }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new());
    /// # let id = "ada".parse()?;
    /// accounts.upsert(&id, |_| Ok::<_, Never>([Deposited { cents: 120 }, Deposited { cents: 30 }])).await?;
    /// assert_eq!(accounts.snapshot(&id).await?, 2);
    /// assert_eq!(accounts.load(&id).await?.balance, 150); // from the snapshot and the events after it
    /// assert_eq!(accounts.remove_snapshots().await?, 1); // they are disposable
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TakeSnapshotError::Unsupported`] if the aggregate has no `snapshot(..)` or the store keeps none;
    /// [`TakeSnapshotError::Load`] as for [`load`](Self::load); [`TakeSnapshotError::State`] if the state cannot be
    /// written and read back; [`TakeSnapshotError::Store`] if the store fails.
    pub async fn snapshot(&self, id: &A::Id) -> Result<Version, TakeSnapshotError> {
        // of what is stored: the saves of a handler may never be
        let taken = self.outside_of_handler().take_snapshot(id).await;
        // no attempt if there is no new snapshot to take
        let is_taken = match &taken {
            Ok((_, is_new)) => is_new.then_some(true),
            Err(TakeSnapshotError::Unsupported { .. } | TakeSnapshotError::Load(LoadError::NotFound { .. })) => None,
            Err(_) => Some(false),
        };
        if let Some((meter, is_taken)) = self.aggregate_meter.as_ref().zip(is_taken) {
            meter.count_snapshot(is_taken);
        }
        taken.map(|(version, _)| version)
    }

    /// Takes a snapshot if there are events after the present one. Returns the version of the snapshot, and `true` if it is
    /// new.
    async fn take_snapshot(&self, id: &A::Id) -> Result<(Version, bool), TakeSnapshotError> {
        let (codec, snapshots, fold) = self.snapshots().map_err(|reason| TakeSnapshotError::Unsupported { reason })?;
        let stream = self.stream(id);
        let Beginning { mut root, rest, is_unusable } = self.begin_fold(id).await.map_err(LoadError::from)?;
        let begun_at = root.version();
        self.replay_rest(&mut root, rest).await?;
        let version = root.version();
        if version == Version::NONE {
            return Err(LoadError::NotFound { stream }.into());
        }
        let is_new = version > begun_at;
        if is_new {
            let data = codec
                .encode(&stream, version, root.state())
                .map_err(|fault| TakeSnapshotError::State { stream: stream.clone(), reason: fault.to_string() })?;
            if is_unusable {
                // it would stay if it had a later version
                snapshots.remove_snapshot(&stream, &fold).await?;
            }
            snapshots.save_snapshot(&stream, &fold, &StoredSnapshot { version, data }).await?;
        }
        Ok((version, is_new))
    }

    /// Removes the snapshots of all aggregates of this type, of every tenant, and returns their number. Loads then read all
    /// events, until snapshots are taken anew.
    ///
    /// # Errors
    /// [`TakeSnapshotError::Unsupported`] and [`TakeSnapshotError::Store`], as for [`snapshot`](Self::snapshot).
    pub async fn remove_snapshots(&self) -> Result<u64, TakeSnapshotError> {
        let (_, snapshots, fold) = self.snapshots().map_err(|reason| TakeSnapshotError::Unsupported { reason })?;
        Ok(snapshots.remove_snapshots(&fold).await?)
    }

    /// Returns the codec, the store and the name of the snapshots; or what is missing to take any.
    fn snapshots(&self) -> Result<(SnapshotCodec<A>, &dyn Snapshots, Name), &'static str> {
        let codec =
            A::SNAPSHOT.ok_or("the aggregate has no snapshots: add `#[aggregate(.., snapshot(every = 100))]`")?;
        let snapshots = self.store.snapshots().ok_or("the store keeps no snapshots")?;
        let fold = Name::new("fold", codec.fold());
        Ok((codec, snapshots, fold.map_err(|_| "the path of the aggregate's type is longer than 255 bytes")?))
    }

    /// Returns `true` if the aggregate has events.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn exists(&self, id: &A::Id) -> Result<bool, LoadError> {
        Ok(self.version(id).await? > Version::NONE)
    }

    /// Returns the number of events of an aggregate, without loading it; 0 if it has none.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the store cannot be read.
    pub async fn version(&self, id: &A::Id) -> Result<Version, LoadError> {
        Ok(self.store.stream_version(&self.stream(id)).await?)
    }

    /// Stores the pending events of `root`, if no other writer appended to its stream since it was loaded.
    ///
    /// Afterwards no event is pending; after an error all still are. Events keep their ids, so saving again after an
    /// unknown outcome stores them once. If `root` recorded more events in between, the store refuses
    /// ([`AppendError::EventIdTaken`]): load the aggregate anew. Without pending events it returns at once.
    ///
    /// # Errors
    /// [`SaveError::Append`] if a concurrent writer was first, which is a conflict, or if the store could not be
    /// reached; [`SaveError::Encode`] if an event cannot be written; [`SaveError::OtherTenant`] if the aggregate or the
    /// context belongs to a different tenant than the repository. No event is stored, unless the outcome is unknown.
    pub async fn save(&self, root: &mut AggregateRoot<A>) -> Result<Saved, SaveError> {
        if root.pending().is_empty() {
            return Ok(Saved::nothing(root.version()));
        }
        // only the save of a command may have no effect
        Ok(self.save_handling(root, None).await?.unwrap_or_else(|| Saved::nothing(root.version())))
    }

    /// Saves, also without pending events, and notes the command in the same commit; returns `None` if a command with its
    /// key took effect before.
    async fn save_handling(
        &self,
        root: &mut AggregateRoot<A>,
        command: Option<&HandledCommand>,
    ) -> Result<Option<Saved>, SaveError> {
        let mut context = self.context.clone().or(EventContext::current());
        self.check_tenant(root, &context)?;
        let span = self.begin_span(root, &mut context);
        let events = self.encode(root, context)?;
        let restores = self.store.possible_restores();
        let appended = self.append(root, events, command).instrument(span.clone()).await;
        let Some(records) =
            appended.inspect_err(|error| spans::record_error(&span, AppendOutcome::of_error(error).label()))?
        else {
            return Ok(None);
        };
        let before = root.version();
        root.mark_saved(before.plus(records.len()));
        if records.is_empty() {
            return Ok(Some(Saved::nothing(before)));
        }
        self.advance_cached(&records, restores);
        self.snapshot_in_background(root, before);
        let publication = self.publisher.publish(self.store.as_port(), &self.clock, &records).await;
        Ok(Some(Saved::new(root.version(), records, publication)))
    }

    /// Makes a command take effect once, however often a client sends it: of all calls under one `key`, the first one
    /// that succeeds decides, and every other call returns its result.
    ///
    /// `command` is what the client asks for; a different command under the same key is refused. Put into it all that
    /// distinguishes it: `("cancel", &body)` if two operations may have the same body. Commands are compared by their
    /// JSON: their maps must be ordered, and a repeat after a release that has added a field is refused. A decision may
    /// take the command, see [`Once::update_with`]; a command without a body is `()`.
    ///
    /// All clients of a tenant share the keys, and so do the tasks of the service: give the keys of clients a prefix. If
    /// clients must not see each other's answers, put the user into the key: `format!("http:{user}:{key}").parse()?`.
    pub fn once<C: Serialize>(&self, key: IdempotencyKey, command: C) -> Once<A, C> {
        Once { repository: self.clone(), keyed: KeyedCommand::new(key, &command), command }
    }

    /// Loads, decides, saves; after a conflict loads and decides again, with jittered delays, up to a limit.
    ///
    /// The decision is a pure method or closure, not an `async` one: load the values that it needs first. It may run
    /// several times. It returns an event of the aggregate, or a tuple, array, `Vec` or `Option` of them. A decision
    /// that never refuses returns `Ok::<_, eventbus::Never>(event)`, as for [`upsert`](Self::upsert).
    ///
    /// ```ignore
    /// let rate = rates.load().await?; // and not in the decision
    /// accounts.update(&id, |account| account.convert(rate)).await?;
    /// ```
    ///
    /// # Errors
    /// [`UpdateError::Refused`] with the decision's refusal, at once; [`UpdateError::Load`] if there is no such
    /// aggregate or it cannot be loaded; [`UpdateError::Save`] if it cannot be saved, also if every retry conflicted.
    pub fn update<'a, D, T, X>(&'a self, id: &'a A::Id, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.decide(id, AggregateExistence::Required, decide, record_events::<A, D, T, X>)
    }

    /// As [`update`](Self::update), for a decision that takes a command: a method of the aggregate, which moves the fields
    /// of the command into its events.
    ///
    /// The decision may run several times, each time with a clone of `command`.
    ///
    /// # Examples
    /// ```standalone_crate
    /// use eventbus::{InMemoryEventStore, prelude::*};
    ///
    /// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// #[event(aggregate = Order)]
    /// struct Shipped { parcel: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Shipped))]
    /// # struct Order { is_shipped: bool }
    /// # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) { self.is_shipped = true; } }
    ///
    /// #[derive(Clone, Deserialize)] // such as the body of a request
    /// struct Ship { parcel: String }
    ///
    /// impl Order {
    ///     fn ship(&self, command: Ship) -> Result<Shipped, &'static str> {
    ///         if self.is_shipped { Err("the order is shipped already") } else { Ok(Shipped { parcel: command.parcel }) }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let orders = AggregateRepository::<Order>::new(InMemoryEventStore::new());
    /// # let (id, command) = ("o-1".parse()?, Ship { parcel: "T-1".into() });
    /// # orders.save(orders.create_new("o-1".parse()?).record(Shipped { parcel: "T-0".into() })).await?;
    /// let refused = orders.update_with(&id, command, Order::ship).await.unwrap_err();
    /// assert_eq!(refused.refused(), Some(&"the order is shipped already"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_with<'a, C, D, T, X>(
        &'a self,
        id: &'a A::Id,
        command: C,
        decide: D,
    ) -> UpdateFuture<'a, A, (C, D), (), X, Saved>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        let decision = (command, decide);
        self.decide(id, AggregateExistence::Required, decision, record_with::<A, C, D, T, X>)
    }

    /// As [`update`](Self::update), for decisions that depend on events they have just recorded: `decide` records the
    /// events itself, and may return a value.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Account)]
    /// # struct Deposited { cents: u64 }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Deposited))]
    /// # struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     fn apply(&mut self, AccountEvent::Deposited(e): &AccountEvent) { self.balance += e.cents; }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let accounts = AggregateRepository::<Account>::new(InMemoryEventStore::new());
    /// # let id = "ada".parse()?;
    /// # accounts.create(&id, |_| Ok::<_, Never>(Deposited { cents: 150 })).await?;
    /// let (_saved, balance) = accounts
    ///     .update_root(&id, |account| {
    ///         account.record(Deposited { cents: 50 });
    ///         account.record(Deposited { cents: account.balance / 10 }); // of the new balance
    ///         Ok::<_, Never>(account.balance)
    ///     })
    ///     .await?;
    /// assert_eq!(balance, 220);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub fn update_root<'a, D, T, X>(&'a self, id: &'a A::Id, decide: D) -> UpdateFuture<'a, A, D, T, X, (Saved, T)>
    where
        D: Fn(&mut AggregateRoot<A>) -> Result<T, X>,
    {
        UpdateFuture::new(
            self,
            id,
            AggregateExistence::Required,
            decide,
            |decide, root| decide(root),
            |saved, value| (saved, value),
        )
    }

    /// Decides and saves the first events of a new aggregate; the decision is as for [`update`](Self::update).
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Room)]
    /// # struct Booked { guest: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Booked))]
    /// # struct Room;
    /// # impl Apply for Room { fn apply(&mut self, _: &RoomEvent) {} }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let rooms = AggregateRepository::<Room>::new(InMemoryEventStore::new());
    /// let (id, book) = ("12".parse()?, |_: &Room| Ok::<_, Never>(Booked { guest: "ada".into() }));
    /// rooms.create(&id, book).await?;
    /// assert!(rooms.create(&id, book).await.unwrap_err().is_conflict()); // it exists
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`update`](Self::update); a conflict if the aggregate has events already, which no retry can change.
    pub fn create<'a, D, T, X>(&'a self, id: &'a A::Id, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.decide(id, AggregateExistence::Absent, decide, record_events::<A, D, T, X>)
    }

    /// As [`create`](Self::create), for a decision that takes a command, as for [`update_with`](Self::update_with): it gets
    /// a clone of `command`.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, Never, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = User)]
    /// # struct Registered { email: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Registered))]
    /// # struct User { email: String }
    /// # impl Apply for User {
    /// #     fn apply(&mut self, UserEvent::Registered(e): &UserEvent) { self.email.clone_from(&e.email); }
    /// # }
    /// # #[derive(Clone)]
    /// # struct Register { email: String }
    /// impl User {
    ///     fn register(&self, command: Register) -> Result<Registered, Never> { Ok(Registered { email: command.email }) }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let users = AggregateRepository::<User>::new(InMemoryEventStore::new());
    /// # let (id, command) = ("ada".parse()?, Register { email: "ada@example.org".into() });
    /// users.create_with(&id, command, User::register).await?;
    /// assert_eq!(users.load(&id).await?.email, "ada@example.org");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_with<'a, C, D, T, X>(
        &'a self,
        id: &'a A::Id,
        command: C,
        decide: D,
    ) -> UpdateFuture<'a, A, (C, D), (), X, Saved>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        let decision = (command, decide);
        self.decide(id, AggregateExistence::Absent, decision, record_with::<A, C, D, T, X>)
    }

    /// As [`update`](Self::update), on a new aggregate if the id has no events.
    ///
    /// The decision returns a `Result`. If it never refuses, name [`Never`](crate::Never), or the compiler asks for the
    /// type of its error.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Room)]
    /// # struct Booked { guest: String }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(Booked))]
    /// # struct Room { guest: Option<String> }
    /// # impl Apply for Room {
    /// #     fn apply(&mut self, RoomEvent::Booked(booked): &RoomEvent) { self.guest = Some(booked.guest.clone()); }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let rooms = AggregateRepository::<Room>::new(InMemoryEventStore::new());
    /// # let id = "12".parse()?;
    /// use eventbus::Never;
    /// rooms.upsert(&id, |_| Ok::<_, Never>(Booked { guest: "ada".into() })).await?; // it never refuses
    ///
    /// let book = |room: &Room| match room.guest {
    ///     None => Ok(Booked { guest: "bob".into() }),
    ///     Some(_) => Err("the room is taken"),
    /// };
    /// let refused = rooms.upsert(&id, book).await.unwrap_err();
    /// assert_eq!(refused.refused(), Some(&"the room is taken"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`update`](Self::update), except that not found cannot happen.
    pub fn upsert<'a, D, T, X>(&'a self, id: &'a A::Id, decide: D) -> UpdateFuture<'a, A, D, (), X, Saved>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.decide(id, AggregateExistence::Optional, decide, record_events::<A, D, T, X>)
    }

    /// As [`upsert`](Self::upsert), for a decision that takes a command, as for [`update_with`](Self::update_with): it may
    /// run several times, each time with a clone of `command`.
    ///
    /// # Examples
    /// ```
    /// # use eventbus::{InMemoryEventStore, prelude::*};
    /// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate = Book)]
    /// # struct BookAcquired { copies: u32 }
    /// # #[derive(Debug, Default, Aggregate)]
    /// # #[aggregate(events(BookAcquired))]
    /// # struct Book { copies: u32 }
    /// # impl Apply for Book {
    /// #     fn apply(&mut self, BookEvent::BookAcquired(e): &BookEvent) { self.copies += e.copies; }
    /// # }
    /// impl Book {
    ///     fn acquire(&self, copies: u32) -> Result<BookAcquired, &'static str> {
    ///         if self.copies + copies > 3 { Err("three copies are enough") } else { Ok(BookAcquired { copies }) }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> eventbus::Result<()> {
    /// # let books = AggregateRepository::<Book>::new(InMemoryEventStore::new());
    /// # let id = "dune".parse()?;
    /// books.upsert_with(&id, 2, Book::acquire).await?;
    /// let refused = books.upsert_with(&id, 2, Book::acquire).await.unwrap_err();
    /// assert_eq!(refused.refused(), Some(&"three copies are enough"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`upsert`](Self::upsert).
    pub fn upsert_with<'a, C, D, T, X>(
        &'a self,
        id: &'a A::Id,
        command: C,
        decide: D,
    ) -> UpdateFuture<'a, A, (C, D), (), X, Saved>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        let decision = (command, decide);
        self.decide(id, AggregateExistence::Optional, decision, record_with::<A, C, D, T, X>)
    }

    /// Returns the update whose decisions `record` makes.
    fn decide<'a, D, X>(
        &'a self,
        id: &'a A::Id,
        existence: AggregateExistence,
        decision: D,
        record: DecideFn<A, D, (), X>,
    ) -> UpdateFuture<'a, A, D, (), X, Saved> {
        UpdateFuture::new(self, id, existence, decision, record, |saved, ()| saved)
    }

    async fn load_with_existence(
        &self,
        id: &A::Id,
        existence: AggregateExistence,
    ) -> Result<AggregateRoot<A>, LoadError> {
        match existence {
            AggregateExistence::Required => self.load(id).await,
            AggregateExistence::Optional => Ok(self.find(id).await?.unwrap_or_else(|| self.create_new(id.clone()))),
            AggregateExistence::Absent => Ok(self.create_new(id.clone())),
        }
    }

    /// Returns the aggregate in its cached state; the store may have newer events.
    fn create_from_cache(&self, id: &A::Id) -> Option<AggregateRoot<A>> {
        let cache = self.cache.as_ref()?;
        let CachedState { state, version, .. } = cache.get(&self.stream(id), self.store.possible_restores())?;
        self.count_load(LoadSource::Cache);
        Some(self.create_new(id.clone()).with_state(cache.copy(&state), version))
    }

    /// Folds all events into a new root, or the newer ones into the cached state; caches the result.
    async fn fold_to_head(&self, id: &A::Id) -> Result<AggregateRoot<A>, LoadError> {
        let (stream, restores) = (self.stream(id), self.store.possible_restores());
        if let Some(cache) = &self.cache
            && let Some(cached) = cache.get(&stream, restores)
        {
            let (mut root, version) = (self.create_new(id.clone()), cached.version);
            // from the cached version on: another event there shows that the stream is not the same any more
            let mut records = self.store.read_stream(&stream, version);
            let first = match records.try_next().await {
                // the store has archived that event, or lost it: a fold of all that is there shows which
                Err(ReadError::Corrupt { .. }) => None,
                first => first?,
            };
            let same = first.filter(|record| record.metadata().event_id() == cached.event_id);
            if let Some(same) = same {
                root = root.with_state(cache.copy(&cached.state), version);
                let last = self.replay_all(&mut root, records).await?;
                self.keep(&root, last.unwrap_or(same.metadata().event_id()), restores);
                self.count_load(LoadSource::Cache);
                return Ok(root);
            }
            cache.remove(&stream);
        }
        let Beginning { mut root, rest, .. } = self.begin_fold(id).await?;
        let begun_at = root.version();
        self.count_load(if begun_at == Version::NONE { LoadSource::Events } else { LoadSource::Snapshot });
        if let Some(last) = self.replay_rest(&mut root, rest).await? {
            self.keep(&root, last, restores);
        }
        self.snapshot_in_background(&root, begun_at);
        Ok(root)
    }

    /// Returns a root with the state of the snapshot, if there is a good one, and the events after it; else a new root,
    /// and all events.
    async fn begin_fold(&self, id: &A::Id) -> Result<Beginning<'_, A>, ReadError> {
        let (stream, root) = (self.stream(id), self.create_new(id.clone()));
        let begin = |root, rest| Ok(Beginning { root, rest, is_unusable: false });
        let Ok((codec, snapshots, fold)) = self.snapshots() else {
            return begin(root, Rest::All);
        };
        let SnapshotRead { snapshot, events } = snapshots.read_from_snapshot(&stream, &fold).await?;
        let Some(StoredSnapshot { version, data }) = snapshot else {
            return begin(root, Rest::Records(self.store.with_own(&stream, Version::FIRST, events)));
        };
        if self.store.version_before_saves(&stream).is_some_and(|before| before < version) {
            // it holds events that other writers have stored since
            return begin(root, Rest::All);
        }
        match codec.decode(&stream, version, &data) {
            Some(state) => {
                let events = self.store.with_own(&stream, version.next(), events);
                begin(root.with_state(state, version), Rest::Records(events))
            }
            None => {
                tracing::debug!(%stream, %version, "the snapshot is damaged, or of another release; reading all events");
                Ok(Beginning { root, rest: Rest::All, is_unusable: true })
            }
        }
    }

    /// Takes a snapshot in the background, if the events since `begun_at` contain one at which it is due.
    fn snapshot_in_background(&self, root: &AggregateRoot<A>, begun_at: Version) {
        let Some(codec) = A::SNAPSHOT else {
            return;
        };
        let boundaries = |version: Version| version.get() / codec.every();
        let boundary = boundaries(root.version());
        if boundaries(begun_at) == boundary || self.snapshots().is_err() {
            return;
        }
        let (repository, id, stream) = (self.outside_of_handler(), root.id().clone(), self.stream(root.id()));
        let tasks = self.snapshot_tasks.clone();
        let fold = codec.fold();
        let task_stream = stream.clone();
        let task = async move {
            match repository.snapshot(&id).await {
                Ok(_) => {}
                Err(error @ TakeSnapshotError::State { .. }) => {
                    // once: each attempt reads all events, and a later state is rarely better
                    let error = ErrorLine(&error);
                    if repository.snapshot_tasks.leave_out(fold, stream.clone()) {
                        tracing::warn!(%stream, %error, "no further snapshots of this state type are taken");
                    } else {
                        tracing::warn!(%stream, %error, "no further snapshots of this stream are taken");
                    }
                }
                Err(error) if error.is_cancelled() => {
                    tracing::info!(
                        %stream,
                        "the process or its runtime ended while a snapshot was taken; nothing is lost: loads read more \
                         events until the next one"
                    );
                }
                Err(error) => {
                    if matches!(&error, TakeSnapshotError::Store(refusal) if !refusal.is_retryable()) {
                        repository.snapshot_tasks.refused(fold, stream.clone(), boundary);
                    }
                    tracing::warn!(%stream, error = %ErrorLine(&error), "no snapshot was taken; loads read more events");
                }
            }
        };
        self.store.after_commit(move || tasks.spawn(fold, task_stream, boundary, task));
    }

    /// Caches the state of a root without pending events, whose last event is `last`. It was read after the store had
    /// counted `restores` possible restores.
    fn keep(&self, root: &AggregateRoot<A>, last: EventId, restores: u64) {
        if let Some(cache) = &self.cache {
            let (state, version) = (Arc::new(cache.copy(root.state())), root.version());
            cache.put(self.stream(root.id()), CachedState { state, version, event_id: last, restores });
        }
    }

    /// Applies saved events, as the store returned them, to the cached state of their aggregate. The store had counted
    /// `restores` possible restores before the save.
    fn advance_cached(&self, records: &[RecordedEvent], restores: u64) {
        let (Some(cache), Some(first), Some(last)) = (&self.cache, records.first(), records.last()) else {
            return;
        };
        if self.store.possible_restores() != restores {
            return; // the events before these may be lost
        }
        let stream = first.metadata().stream();
        let mut state = match first.version() {
            Version::FIRST => A::default(),
            version => match cache.take_at(stream, Version::new(version.get() - 1), restores) {
                Some(before) => Arc::try_unwrap(before.state).unwrap_or_else(|shared| cache.copy(&shared)),
                None => return,
            },
        };
        for record in records {
            match A::Event::decode_fields(record.fields()) {
                Ok(event) => state.apply(&event),
                Err(_) => return, // the next load reports it
            }
        }
        let (version, event_id) = (last.version(), last.metadata().event_id());
        cache.put(stream.clone(), CachedState { state: Arc::new(state), version, event_id, restores });
    }

    /// Folds the events into a new root, up to the first one that is not included.
    async fn fold(
        &self,
        id: &A::Id,
        is_included: impl Fn(&RecordedEvent) -> bool,
    ) -> Result<AggregateRoot<A>, LoadError> {
        let stream = self.stream(id);
        let mut root = self.create_new(id.clone());
        let mut records = self.store.read_stream(&stream, Version::FIRST);
        while let Some(record) = records.try_next().await? {
            if !is_included(&record) {
                break;
            }
            self.replay(&mut root, &record)?;
        }
        Ok(root)
    }

    /// Applies the events after the beginning of a fold, and returns the id of the last one.
    async fn replay_rest(&self, root: &mut AggregateRoot<A>, rest: Rest<'_>) -> Result<Option<EventId>, LoadError> {
        if let Rest::Records(records) = rest {
            return self.replay_all(root, records).await;
        }
        let (stream, mut last) = (self.stream(root.id()), Ok(None));
        let mut visit = |event: VisitedEvent<'_>| match self.replay_fields(root, event.version, event.fields) {
            Ok(_) => {
                last = Ok(Some(event.event_id));
                ControlFlow::Continue(())
            }
            Err(error) => {
                last = Err(error);
                ControlFlow::Break(())
            }
        };
        self.store.visit_stream(&stream, &mut visit).await?;
        last
    }

    /// Applies the stored events, and returns the id of the last one.
    async fn replay_all(
        &self,
        root: &mut AggregateRoot<A>,
        mut records: RecordStream<'_>,
    ) -> Result<Option<EventId>, LoadError> {
        let mut last = None;
        while let Some(record) = records.try_next().await? {
            self.replay(root, &record)?;
            last = Some(record.metadata().event_id());
        }
        Ok(last)
    }

    /// Applies a stored event; returns it, unless the aggregate has retired its type.
    #[allow(clippy::result_large_err, reason = "its callers return the same error from a future, which is no smaller")]
    fn replay(&self, root: &mut AggregateRoot<A>, record: &RecordedEvent) -> Result<Option<A::Event>, LoadError> {
        self.replay_fields(root, record.version(), record.fields())
    }

    #[allow(clippy::result_large_err, reason = "as for `replay`")]
    fn replay_fields(
        &self,
        root: &mut AggregateRoot<A>,
        version: Version,
        fields: EventFields<'_>,
    ) -> Result<Option<A::Event>, LoadError> {
        if A::RETIRED.contains(&fields.event_type.as_str()) {
            root.pass(version);
            return Ok(None);
        }
        let event = A::Event::decode_fields(fields).map_err(|source| LoadError::Decode {
            stream: self.stream(root.id()),
            version,
            source,
        })?;
        root.replay(&event, version);
        Ok(Some(event))
    }

    /// Refuses an aggregate, or a context, of a different tenant than the repository's.
    fn check_tenant(&self, root: &AggregateRoot<A>, context: &EventContext) -> Result<(), SaveError> {
        // a context that names no tenant takes the repository's
        let of_context = known_tenant(context.tenant_id).or(self.tenant_id);
        match [root.tenant_id(), of_context].into_iter().find(|found| *found != self.tenant_id) {
            Some(found) => Err(SaveError::OtherTenant { stream: self.stream(root.id()), found }),
            None => Ok(()),
        }
    }

    /// Encodes the events of one save. They share one correlation id: the context's, or else a new one.
    fn encode(&self, root: &AggregateRoot<A>, mut context: EventContext) -> Result<Vec<NewEvent>, SaveError> {
        context.correlation_id.get_or_insert_with(|| self.clock.new_id());
        Ok(encode_pending(root, &context, &self.clock)?)
    }

    /// Appends; resolves an unknown outcome by appending the same event ids again. Returns `None` if the command took
    /// effect before.
    async fn append(
        &self,
        root: &AggregateRoot<A>,
        events: Vec<NewEvent>,
        command: Option<&HandledCommand>,
    ) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
        let (stream, version) = (self.stream(root.id()), root.version());
        let append = outcome::until_known(&self.clock, &stream, || async {
            match command {
                None => self.store.append(&stream, version, events.clone()).await.map(Some),
                Some(command) => self.store.append_handling(&stream, version, events.clone(), command).await,
            }
        });
        // the saves of a handler are appended, and counted, once it has returned
        if self.store.is_in_handler() { append.await } else { self.meters.measure_append(&self.clock, append).await }
    }

    /// Begins the span of an append, whose trace the events continue. The saves of a handler are appended once it has
    /// returned: they continue the trace of the handler.
    fn begin_span(&self, root: &AggregateRoot<A>, context: &mut EventContext) -> Span {
        if self.store.is_in_handler() {
            spans::continue_current(context);
            return Span::none();
        }
        spans::append(|| Some(self.stream(root.id())), context)
    }

    fn count_load(&self, source: LoadSource) {
        if let Some(meter) = &self.aggregate_meter {
            meter.count_load(source);
        }
    }
}

impl<A: Aggregate> Clone for AggregateRepository<A> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            publisher: self.publisher.clone(),
            tenant_id: self.tenant_id,
            context: self.context.clone(),
            conflict_retry: self.conflict_retry,
            clock: self.clock.clone(),
            cache: self.cache.clone(),
            snapshot_tasks: self.snapshot_tasks.clone(),
            first_command: Arc::clone(&self.first_command),
            meters: self.meters.clone(),
            aggregate_meter: self.aggregate_meter.clone(),
            aggregate: PhantomData,
        }
    }
}

/// Where a fold begins, and the events that it applies then.
struct Beginning<'a, A: Aggregate> {
    root: AggregateRoot<A>,
    rest: Rest<'a>,
    /// Set if there is a snapshot that is damaged, or that a different release wrote.
    is_unusable: bool,
}

/// The events that a fold applies.
enum Rest<'a> {
    /// All events of the stream, not read yet.
    All,
    /// The events after a snapshot.
    Records(RecordStream<'a>),
}

/// Records the events of a decision.
fn record_events<A, D, T, X>(decide: &D, root: &mut AggregateRoot<A>) -> Result<(), X>
where
    A: Aggregate + Apply,
    D: Fn(&A) -> Result<T, X>,
    T: IntoEvents<A::Event>,
{
    root.record(decide(root)?);
    Ok(())
}

/// Records the events of a decision on a command. The decision gets a clone, as it may run again.
fn record_with<A, C, D, T, X>((command, decide): &(C, D), root: &mut AggregateRoot<A>) -> Result<(), X>
where
    A: Aggregate + Apply,
    C: Clone,
    D: Fn(&A, C) -> Result<T, X>,
    T: IntoEvents<A::Event>,
{
    record_events(&|state: &A| decide(state, command.clone()), root)
}

/// The future of [`AggregateRepository::update`] and its variants; it decides when it is awaited.
///
/// Its type names the decision but has no bounds on it: for a closure that does not fit, such as an `async` one, the
/// compiler reports one error at the call, and no second one at the `.await`.
#[derive(derive_more::Debug)]
#[debug("UpdateFuture {{ id: {id:?}, retries: {retries:?}, .. }}")]
#[must_use = "a decision is made when it is awaited"]
pub struct UpdateFuture<'a, A: Aggregate + Apply, D, V, X, O> {
    repository: &'a AggregateRepository<A>,
    id: &'a A::Id,
    existence: AggregateExistence,
    decision: D,
    decide: DecideFn<A, D, V, X>,
    /// Makes the caller's result from the save and the decision's value.
    output: fn(Saved, V) -> O,
    retries: Retries,
    decided: Option<V>,
    /// Set while the state in use comes from the cache and no read has confirmed it.
    is_from_cache: bool,
    state: UpdateState<'a, A>,
}

type DecideFn<A, D, V, X> = fn(&D, &mut AggregateRoot<A>) -> Result<V, X>;

/// The existence that an update requires of its aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AggregateExistence {
    /// It has events.
    Required,
    /// It has events, or is new.
    Optional,
    /// It is new: a conflict is final, as no retry can remove the other events.
    Absent,
}

/// The step in progress.
///
/// | state | event | next state |
/// |---|---|---|
/// | load | loaded, the decision accepts | save |
/// | load | from the cache, the decision refuses or has no events | load, from the store |
/// | load | not loaded, or the decision refuses | done, with the error |
/// | save | conflict, or an event that cannot be encoded, with a state from the cache | load, from the store |
/// | save | conflict, and the aggregate may exist and a retry is left | load, after a delay |
/// | save | saved, or any other error | done |
enum UpdateState<'a, A: Aggregate + Apply> {
    Load(BoxFuture<'a, Result<AggregateRoot<A>, LoadError>>),
    Save(BoxFuture<'a, Result<Saved, SaveError>>),
}

impl<'a, A: Aggregate + Apply, D, V, X, O> UpdateFuture<'a, A, D, V, X, O> {
    fn new(
        repository: &'a AggregateRepository<A>,
        id: &'a A::Id,
        existence: AggregateExistence,
        decision: D,
        decide: DecideFn<A, D, V, X>,
        output: fn(Saved, V) -> O,
    ) -> Self {
        let is_new = existence == AggregateExistence::Absent;
        let cached = if is_new { None } else { repository.create_from_cache(id) };
        let is_from_cache = cached.is_some();
        let state = UpdateState::Load(match cached {
            Some(root) => Box::pin(std::future::ready(Ok(root))),
            None => Box::pin(repository.load_with_existence(id, existence)),
        });
        Self {
            repository,
            id,
            existence,
            decision,
            decide,
            output,
            retries: Retries::default(),
            decided: None,
            is_from_cache,
            state,
        }
    }
}

/// No field is pinned in place: the futures are boxed.
impl<A: Aggregate + Apply, D, V, X, O> Unpin for UpdateFuture<'_, A, D, V, X, O> {}

impl<A: Aggregate + Apply, D, V, X, O> Future for UpdateFuture<'_, A, D, V, X, O> {
    type Output = Result<O, UpdateError<X>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { repository, id, existence, decision, decide, output, retries, decided, is_from_cache, state } =
            &mut *self;
        let (repository, id, existence) = (*repository, *id, *existence);
        let load = || UpdateState::Load(Box::pin(repository.load_with_existence(id, existence)));
        loop {
            match state {
                UpdateState::Load(loading) => {
                    let mut root = ready!(loading.as_mut().poll(context))?;
                    let value = decide(decision, &mut root);
                    // newer events may change the decision: only an append finds out whether there are any
                    if *is_from_cache && (value.is_err() || root.pending().is_empty()) {
                        (*is_from_cache, *state) = (false, load());
                        continue;
                    }
                    *decided = Some(value.map_err(UpdateError::Refused)?);
                    *state = UpdateState::Save(Box::pin(async move {
                        if existence == AggregateExistence::Absent && !root.pending().is_empty() {
                            repository.store.check_is_new(&repository.stream(id)).await?;
                        }
                        repository.save(&mut root).await
                    }));
                }
                UpdateState::Save(save) => match ready!(save.as_mut().poll(context)) {
                    Err(error) if *is_from_cache && (error.is_conflict() || matches!(error, SaveError::Encode(_))) => {
                        (*is_from_cache, *state) = (false, load());
                    }
                    Err(error)
                        if error.is_conflict()
                            && existence != AggregateExistence::Absent
                            && let Some(delay) = retries.next_delay(&repository.conflict_retry, &repository.clock) =>
                    {
                        tracing::debug!(stream = %repository.stream(id), ?retries, "conflict, loading and deciding anew");
                        *state = UpdateState::Load(Box::pin(async move {
                            repository.clock.sleep(delay).await;
                            repository.load_with_existence(id, existence).await
                        }));
                    }
                    saved => {
                        let decided = decided.take().expect("the load step decides before each save step");
                        return Poll::Ready(Ok(output(saved?, decided)));
                    }
                },
            }
        }
    }
}

/// A repository for one command: made by [`AggregateRepository::once`].
///
/// The first call that succeeds under a key notes the key in the commit of its events, also if the decision has none.
/// Every other call with the same key and command stores no event and returns the same [`Saved`], also if many calls
/// run at once, and after a crash between the commit and the answer. A refusal or an error is not noted: the same
/// command may succeed later. Keys belong to the tenant of the repository. An app that takes commands forgets a key
/// after [`command_retention`](crate::app::AppBuilder::command_retention); the key can then be used anew. Without an
/// app, call [`forget_commands`](crate::store::MultiStreamAppends::forget_commands).
///
/// # Examples
/// ```standalone_crate
/// use eventbus::{InMemoryEventStore, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate = Order)]
/// # struct Shipped { parcel: String }
/// # #[derive(Debug, Default, Aggregate)]
/// # #[aggregate(events(Shipped))]
/// # struct Order { is_shipped: bool }
/// # impl Apply for Order { fn apply(&mut self, _: &OrderEvent) { self.is_shipped = true; } }
/// #[derive(Clone, Serialize)] // `Serialize`: to tell it from another command under the same key
/// struct Ship { parcel: String }
///
/// impl Order {
///     fn ship(&self, command: Ship) -> Result<Shipped, &'static str> {
///         if self.is_shipped { Err("the order is shipped already") } else { Ok(Shipped { parcel: command.parcel }) }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let orders = AggregateRepository::<Order>::new(InMemoryEventStore::new());
/// # let id = "o-1".parse()?;
/// let (key, command) = ("8e03978e".parse()?, Ship { parcel: "T-1".into() }); // as the client sent them
/// let first = orders.once(key, command.clone()).upsert_with(&id, Order::ship).await?;
///
/// let again = orders.once("8e03978e".parse()?, command).upsert_with(&id, Order::ship).await?;
/// assert_eq!(again.events, first.events); // and no refusal
///
/// let other = Ship { parcel: "T-2".into() };
/// let error = orders.once("8e03978e".parse()?, other).upsert_with(&id, Order::ship).await.unwrap_err();
/// assert!(error.is_key_reused());
/// # Ok(())
/// # }
/// ```
#[derive(derive_more::Debug)]
#[debug("Once {{ key: {}, repository: {repository:?} }}", keyed.key())]
#[must_use = "a decision is made when one of its methods is awaited"]
pub struct Once<A: Aggregate, C> {
    repository: AggregateRepository<A>,
    keyed: KeyedCommand,
    command: C,
}

impl<A: Aggregate + Apply, C> Once<A, C> {
    /// As [`AggregateRepository::update`], once.
    ///
    /// # Errors
    /// The errors of that method; [`UpdateError::Once`] if the key was used for another command, if the command cannot
    /// be written as JSON, or if the repository belongs to a handler, whose saves take effect once anyway.
    pub async fn update<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Required, decide).await
    }

    /// As [`AggregateRepository::update_with`], once. The decision takes the command of
    /// [`once`](AggregateRepository::once); it may run several times, each time with a clone.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    pub async fn update_with<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Required, |state| decide(state, self.command.clone())).await
    }

    /// As [`AggregateRepository::create`], once. The id is not part of the command: each call may draw a new one, and
    /// the events of the answer name the id of the first call. If the client chooses the id, put it into the command.
    ///
    /// # Errors
    /// The errors of that method and of [`update`](Self::update).
    pub async fn create<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Absent, decide).await
    }

    /// As [`create`](Self::create), for a decision that takes the command, as for [`update_with`](Self::update_with).
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub async fn create_with<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Absent, |state| decide(state, self.command.clone())).await
    }

    /// As [`AggregateRepository::upsert`], once.
    ///
    /// # Errors
    /// The errors of that method and of [`update`](Self::update).
    pub async fn upsert<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Optional, decide).await
    }

    /// As [`upsert`](Self::upsert), for a decision that takes the command, as for [`update_with`](Self::update_with).
    ///
    /// # Errors
    /// As for [`upsert`](Self::upsert).
    pub async fn upsert_with<D, T, X>(&self, id: &A::Id, decide: D) -> Result<Saved, UpdateError<X>>
    where
        C: Clone,
        D: Fn(&A, C) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        self.run(id, AggregateExistence::Optional, |state| decide(state, self.command.clone())).await
    }

    /// Looks for the answer before each decision, and before each error: the same command may have taken effect meanwhile.
    async fn run<D, T, X>(&self, id: &A::Id, existence: AggregateExistence, decide: D) -> Result<Saved, UpdateError<X>>
    where
        D: Fn(&A) -> Result<T, X>,
        T: IntoEvents<A::Event>,
    {
        let multi_stream = self.multi_stream()?;
        let stream = self.repository.stream(id);
        let id_of_request = if existence == AggregateExistence::Absent { "" } else { stream.aggregate_id().as_str() };
        let request = self.keyed.fingerprint(A::AGGREGATE_TYPE, id_of_request)?;
        self.repository.first_command.notify_one();
        let (mut retries, mut sent) = (Retries::default(), Vec::new());
        loop {
            if let Some(saved) = self.find_answer(multi_stream, request).await? {
                return Ok(self.publish_if_own(saved, &sent).await);
            }
            let decided = match self.repository.load_with_existence(id, existence).await {
                Ok(mut root) => match record_events(&decide, &mut root) {
                    Ok(()) => Ok(root),
                    Err(refusal) => Err(UpdateError::Refused(refusal)),
                },
                Err(error) => Err(error.into()),
            };
            let saved = match decided {
                Ok(mut root) => {
                    let command = self.keyed.handled(request, &stream, root.version(), root.pending().len())?;
                    sent = root.pending_with_ids().map(|(_, id)| id).collect();
                    self.repository.save_handling(&mut root, Some(&command)).await.map_err(UpdateError::Save)
                }
                Err(error) => Err(error),
            };
            let error = match saved {
                Ok(Some(saved)) => return Ok(saved),
                Ok(None) => continue,
                Err(error) => error,
            };
            let AggregateRepository { conflict_retry, clock, .. } = &self.repository;
            if error.is_conflict()
                && existence != AggregateExistence::Absent
                && let Some(delay) = retries.next_delay(conflict_retry, clock)
            {
                clock.sleep(delay).await;
                continue;
            }
            return match self.find_answer(multi_stream, request).await {
                Ok(Some(saved)) => Ok(self.publish_if_own(saved, &sent).await),
                // without the look-up it is not known whether a copy of the command took effect
                Err(unread) if matches!(unread, UpdateError::Once(_)) || error.may_come_from_copy() => Err(unread),
                Ok(None) | Err(_) => Err(error),
            };
        }
    }

    /// Publishes the events of an answer if this call has sent them: it had not learned that they were stored.
    async fn publish_if_own(&self, saved: Saved, sent: &[EventId]) -> Saved {
        let is_own = saved.events.iter().map(|event| event.metadata().event_id()).eq(sent.iter().copied());
        if saved.events.is_empty() || !is_own {
            return saved;
        }
        let AggregateRepository { publisher, store, clock, .. } = &self.repository;
        Saved { publication: publisher.publish(store.as_port(), clock, &saved.events).await, ..saved }
    }

    fn multi_stream(&self) -> Result<&dyn MultiStreamAppends, OnceError> {
        if self.repository.store.is_in_handler() {
            return Err(OnceError::InHandler);
        }
        let store = self.repository.store.as_port();
        store.multi_stream_appends().ok_or_else(|| OnceError::Unsupported { store: store.describe() })
    }

    /// Returns what the command has saved, if it took effect.
    async fn find_answer<X>(
        &self,
        store: &dyn MultiStreamAppends,
        request: Uuid,
    ) -> Result<Option<Saved>, UpdateError<X>> {
        let AggregateRepository { tenant_id, publisher, store: streams, .. } = &self.repository;
        let found = store.find_command(*tenant_id, self.keyed.key()).await.map_err(LoadError::from)?;
        let Some(found) = found else { return Ok(None) };
        let SavedEvents { stream, version, events } = self.keyed.answer(request, A::AGGREGATE_TYPE, &found)?;
        if events == 0 {
            return Ok(Some(Saved::nothing(version)));
        }
        let first = Version::new(version.get().saturating_sub(events) + 1);
        let stored = streams.read_stream(&stream, first).take(usize::try_from(events).unwrap_or(usize::MAX));
        let records: Vec<_> = match stored.try_collect().await {
            Ok(records) => records,
            Err(ReadError::Corrupt { .. }) => Vec::new(), // they are archived, or lost
            Err(error) => return Err(LoadError::from(error).into()),
        };
        if records.len() as u64 != events {
            let reason = format!("{} of its {events} events are left in the store", records.len());
            return Err(self.keyed.damaged(reason).into());
        }
        Ok(Some(Saved::new(version, records, publisher.of_stored())))
    }
}
