//! Handles of projections: the state and its progress, shared by the runner and the readers.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{RwLock, watch};

use super::{
    ProjectionError,
    context::projection_role,
    guard::{ProjectionGuard, StateRef},
    progress::ProjectionProgress,
};
use crate::{
    domain::{clock::SharedClock, error::BoxError, stream::Position},
    port::{EventStore, StateMap, activity::Activity, skipped_positions},
    runtime::definition::{Projection, ProjectionDefinition, ProjectionKind},
};

/// A projection with its position. Clones share both.
///
/// An app makes and feeds its own ([`App::projection`](crate::App::projection)); without an app, feed it from a bus
/// ([`EventBusExt::subscribe_all`](crate::EventBusExt::subscribe_all)) or from a store
/// ([`ProjectionHandle::rebuild`]).
///
/// # Examples
/// ```
/// # use eventbus::{InMemoryEventStore, ProjectionHandle, prelude::*};
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
/// let accounts = ProjectionHandle::with_factory(Accounts::default);
/// accounts.rebuild(&store).await?;
/// assert_eq!(accounts.read().await.opened, 0);
/// # Ok(())
/// # }
/// ```
pub struct ProjectionHandle<P>(Arc<ProjectionInner<P>>);

struct ProjectionInner<P> {
    state: ProjectionState<P>,
    factory: Option<Box<dyn Fn() -> P + Send + Sync>>,
    /// The shared state of the app that feeds it; behind a lock, as the app starts after the handle is made.
    app_state: RwLock<StateMap>,
    progress: watch::Sender<ProjectionProgress>,
    /// The clock of the app that feeds it; behind a lock for the same reason.
    clock: Mutex<SharedClock>,
    activity: Arc<Activity>,
    /// The positions that it skips, sorted; `None` if they are to be loaded.
    skips: Mutex<Option<Arc<[Position]>>>,
}

pub(super) enum ProjectionState<P> {
    /// `&mut self` methods: an event and a reader exclude each other.
    Locked(RwLock<P>),
    /// `&self` methods: no lock.
    Unlocked(P),
}

impl<P> ProjectionState<P> {
    /// Returns `true` if an event is being handled, or waits for a guard to be dropped.
    fn is_in_use(&self) -> bool {
        match self {
            Self::Locked(lock) => lock.try_read().is_err(),
            Self::Unlocked(_) => false,
        }
    }
}

impl<P: Projection> ProjectionHandle<P> {
    /// Takes an instance. It cannot be rebuilt: [`with_factory`](Self::with_factory) can.
    #[must_use]
    pub fn new(projection: P) -> Self {
        Self::from_parts(projection, None)
    }

    /// Makes an instance, and a new one for each rebuild.
    #[must_use]
    pub fn with_factory(factory: impl Fn() -> P + Send + Sync + 'static) -> Self {
        Self::from_parts(factory(), Some(Box::new(factory)))
    }

    fn from_parts(projection: P, factory: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        let state = match P::definition().kind {
            ProjectionKind::InMemory => ProjectionState::Locked(RwLock::new(projection)),
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => ProjectionState::Unlocked(projection),
        };
        let (context, progress, clock, activity, skips) = Default::default();
        Self(Arc::new(ProjectionInner { state, factory, app_state: context, progress, clock, activity, skips }))
    }

    /// Reads the state as it is now; waits while an event is being handled.
    ///
    /// A task that holds a guard and requests a second one may wait for ever: an event that came in between waits for
    /// the first, and the second for that event.
    pub async fn read(&self) -> ProjectionGuard<'_, P> {
        let view = match &self.0.state {
            ProjectionState::Locked(lock) => StateRef::Locked(lock.read().await),
            ProjectionState::Unlocked(state) => StateRef::Unlocked(state),
        };
        ProjectionGuard::new(view, self.position())
    }

    /// Returns the position up to which all events are included; fed from a bus, the highest position of those handled.
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
        self.wait_for_position(position, timeout).await?;
        clock
            .timeout(timeout.saturating_sub(clock.elapsed(began)), self.read())
            .await
            .map_err(|_| ProjectionError::Busy { name: P::definition().name, timeout })
    }

    pub(super) fn definition(&self) -> ProjectionDefinition {
        P::definition()
    }

    pub(super) fn new_instance(&self) -> Option<P> {
        self.0.factory.as_ref().map(|factory| factory())
    }

    pub(super) fn state(&self) -> &ProjectionState<P> {
        &self.0.state
    }

    /// Returns the runs of its methods at the moment.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.0.activity
    }

    /// Returns the positions that it skips; loads them once until they are [cleared](Self::clear_cached_skips).
    pub(super) async fn skips(&self, store: &dyn EventStore) -> Result<Arc<[Position]>, BoxError> {
        if let Some(known) = self.cached_skips() {
            return Ok(known);
        }
        let positions: Arc<[Position]> = skipped_positions(store, &projection_role(P::definition().name)).await?.into();
        *self.lock_skips() = Some(Arc::clone(&positions));
        Ok(positions)
    }

    /// Returns the positions that it skips, if loaded.
    pub(super) fn cached_skips(&self) -> Option<Arc<[Position]>> {
        self.lock_skips().clone()
    }

    /// Clears the loaded positions, as an operator may have changed them.
    pub(crate) fn clear_cached_skips(&self) {
        *self.lock_skips() = None;
    }

    /// Returns the number of loaded positions up to `position` that it skips.
    pub(super) fn count_skipped(&self, position: Position) -> u64 {
        let skips = self.lock_skips();
        skips.iter().flat_map(|skips| skips.iter()).filter(|skipped| **skipped <= position).count() as u64
    }

    fn lock_skips(&self) -> MutexGuard<'_, Option<Arc<[Position]>>> {
        self.0.skips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> &watch::Sender<ProjectionProgress> {
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
    pub(super) async fn set_app_state(&self, context: StateMap) {
        *self.0.app_state.write().await = context;
    }

    pub(super) async fn app_state(&self) -> StateMap {
        self.0.app_state.read().await.clone()
    }

    /// Waits until every event up to `position` is handled.
    pub(super) fn wait_for_position(
        &self,
        position: Position,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProjectionError>> + Send + 'static {
        let (inner, clock) = (Arc::clone(&self.0), self.clock());
        let mut progress = self.0.progress.subscribe();
        async move {
            let name = P::definition().name;
            let arrived = progress.wait_for(|now| now.position >= position || now.end_reason(name).is_some());
            let in_time = clock.timeout(timeout, arrived).await.is_ok();
            let now = progress.borrow();
            if now.position >= position {
                return Ok(());
            }
            let why = now.end_reason(name).filter(|_| in_time);
            let busy = || {
                let in_use = "an event is being handled, or a guard is held";
                let is_in_use = inner.state.is_in_use();
                String::from(if is_in_use { in_use } else { "it is still busy" })
            };
            Err(why.unwrap_or_else(|| ProjectionError::TimedOut {
                name,
                position: now.position,
                wanted: position,
                timeout,
                problem: now.problem.clone().unwrap_or_else(busy),
            }))
        }
    }
}

impl<P> Clone for ProjectionHandle<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> fmt::Debug for ProjectionHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectionHandle").field("progress", &*self.0.progress.borrow()).finish_non_exhaustive()
    }
}
