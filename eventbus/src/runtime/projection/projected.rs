//! A projection with how far it has come.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{RwLock, watch};

use super::{
    ProjectionError,
    guard::{ProjectionGuard, View},
    progress::Progress,
    runner::role_of,
};
use crate::{
    domain::{clock::SharedClock, error::BoxError, stream::Position},
    port::{EventStore, StateMap, activity::Activity, skipped_positions},
    runtime::definition::{Projection, ProjectionDefinition, ProjectionKind},
};

/// A projection with how far it has come. Cloning shares it.
///
/// An app makes and feeds its own ([`App::projection`](crate::App::projection)); by hand it is fed from a bus
/// ([`EventBusExt::subscribe_all`](crate::EventBusExt::subscribe_all)) or from a store
/// ([`Projected::rebuild`]).
///
/// # Examples
/// ```
/// # use eventbus::{InMemoryEventStore, Projected, prelude::*};
/// # #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// # #[event(aggregate_type = "Account")]
/// # struct Opened {}
/// #[derive(Debug, Default)]
/// struct Accounts { opened: u64 }
///
/// #[projection(name = "accounts")]
/// impl Accounts {
///     fn opened(&mut self, _event: &Opened) { self.opened += 1; }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> eventbus::Result<()> {
/// # let store = InMemoryEventStore::new();
/// let accounts = Projected::with(Accounts::default);
/// accounts.rebuild(&store).await?;
/// assert_eq!(accounts.read().await.opened, 0);
/// # Ok(())
/// # }
/// ```
pub struct Projected<P>(Arc<Shared<P>>);

struct Shared<P> {
    state: State<P>,
    make: Option<Box<dyn Fn() -> P + Send + Sync>>,
    context: RwLock<StateMap>,
    progress: watch::Sender<Progress>,
    /// The clock of the app that feeds it.
    clock: Mutex<SharedClock>,
    activity: Arc<Activity>,
    /// The positions that it skips, sorted; `None` if they are to be asked for.
    skips: Mutex<Option<Arc<[Position]>>>,
}

pub(super) enum State<P> {
    /// `&mut self` methods.
    Locked(RwLock<P>),
    /// `&self` methods: no lock.
    Free(P),
}

impl<P> State<P> {
    /// Whether an event is being handled, or one waits for a guard to be let go.
    fn is_in_use(&self) -> bool {
        match self {
            Self::Locked(lock) => lock.try_read().is_err(),
            Self::Free(_) => false,
        }
    }
}

impl<P: Projection> Projected<P> {
    /// Takes an instance. It cannot be rebuilt: [`with`](Self::with) can.
    #[must_use]
    pub fn new(projection: P) -> Self {
        Self::build(projection, None)
    }

    /// Makes an instance, and a new one for each rebuild.
    #[must_use]
    pub fn with(make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::build(make(), Some(Box::new(make)))
    }

    fn build(projection: P, make: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        let state = match P::definition().kind {
            ProjectionKind::InMemory => State::Locked(RwLock::new(projection)),
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => State::Free(projection),
        };
        let (context, progress, clock, activity, skips) = Default::default();
        Self(Arc::new(Shared { state, make, context, progress, clock, activity, skips }))
    }

    /// Reads the state as it is now; waits while an event is being handled.
    ///
    /// A task that holds a guard and asks for another one may wait for ever: an event that came in between waits for
    /// the first, and the second for that event.
    pub async fn read(&self) -> ProjectionGuard<'_, P> {
        let view = match &self.0.state {
            State::Locked(lock) => View::Locked(lock.read().await),
            State::Free(state) => View::Free(state),
        };
        ProjectionGuard::new(view, self.position())
    }

    /// The position up to which every event is included; fed from a bus, the highest position of those handled.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.progress.borrow().position
    }

    /// Waits until every event up to `position` is included, then reads the state.
    ///
    /// # Errors
    /// [`ProjectionError::Stopped`] if an event could not be handled; [`ProjectionError::ShutDown`] if no app feeds it
    /// any more; after `timeout` [`ProjectionError::TimedOut`], or [`ProjectionError::Busy`] while its state is in use.
    pub async fn read_at(
        &self,
        position: Position,
        timeout: Duration,
    ) -> Result<ProjectionGuard<'_, P>, ProjectionError> {
        let clock = self.clock();
        let began = clock.instant();
        self.reached(position, timeout).await?;
        clock
            .timeout(timeout.saturating_sub(clock.elapsed(began)), self.read())
            .await
            .map_err(|_| ProjectionError::Busy { name: P::definition().name, timeout })
    }

    pub(super) fn definition(&self) -> ProjectionDefinition {
        P::definition()
    }

    pub(super) fn make(&self) -> Option<P> {
        self.0.make.as_ref().map(|make| make())
    }

    pub(super) fn state(&self) -> &State<P> {
        &self.0.state
    }

    /// What its methods run at the moment.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.0.activity
    }

    /// The positions that it skips, asked for once until they are [forgotten](Self::forget_skips).
    pub(super) async fn skips(&self, store: &dyn EventStore) -> Result<Arc<[Position]>, BoxError> {
        if let Some(known) = self.known_skips() {
            return Ok(known);
        }
        let positions: Arc<[Position]> = skipped_positions(store, &role_of(P::definition().name)).await?.into();
        *self.lock_skips() = Some(Arc::clone(&positions));
        Ok(positions)
    }

    /// The positions that it skips, if they were asked for.
    pub(super) fn known_skips(&self) -> Option<Arc<[Position]>> {
        self.lock_skips().clone()
    }

    /// Says that what it skips may have changed.
    pub(crate) fn forget_skips(&self) {
        *self.lock_skips() = None;
    }

    /// How many events it skips, as far as is known.
    pub(super) fn skipped_through(&self, position: Position) -> u64 {
        let skips = self.lock_skips();
        skips.iter().flat_map(|skips| skips.iter()).filter(|skipped| **skipped <= position).count() as u64
    }

    fn lock_skips(&self) -> MutexGuard<'_, Option<Arc<[Position]>>> {
        self.0.skips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> &watch::Sender<Progress> {
        &self.0.progress
    }

    /// Waits by this clock from now on.
    pub(super) fn set_clock(&self, clock: SharedClock) {
        *self.0.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    pub(super) fn clock(&self) -> SharedClock {
        self.0.clock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the methods the app's shared state.
    pub(super) async fn set_context(&self, context: StateMap) {
        *self.0.context.write().await = context;
    }

    pub(super) async fn context(&self) -> StateMap {
        self.0.context.read().await.clone()
    }

    /// Waits until every event up to `position` is handled.
    pub(super) fn reached(
        &self,
        position: Position,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProjectionError>> + Send + 'static {
        let (shared, clock) = (Arc::clone(&self.0), self.clock());
        let mut progress = self.0.progress.subscribe();
        async move {
            let name = P::definition().name;
            let arrived = progress.wait_for(|now| now.position >= position || now.why_not_on(name).is_some());
            let in_time = clock.timeout(timeout, arrived).await.is_ok();
            let now = progress.borrow();
            if now.position >= position {
                return Ok(());
            }
            let why = now.why_not_on(name).filter(|_| in_time);
            let busy = || {
                let in_use = "an event is being handled, or a guard is held";
                let is_in_use = shared.state.is_in_use();
                String::from(if is_in_use { in_use } else { "it is still busy" })
            };
            Err(why.unwrap_or_else(|| ProjectionError::TimedOut {
                name,
                position: now.position,
                wanted: position,
                timeout,
                trouble: now.trouble.clone().unwrap_or_else(busy),
            }))
        }
    }
}

impl<P> Clone for Projected<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for Projected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projected").field("progress", &*self.0.progress.borrow()).finish_non_exhaustive()
    }
}
