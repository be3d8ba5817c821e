//! Insides of a projection's handle: the state, which events and rebuilds change, and its progress.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::{
    ProjectionError, RebuildProgress, Rebuilt,
    context::projection_role,
    event_handling::run_watched,
    guard::{ProjectionGuard, StateRef},
    progress::{ProgressCell, ProjectionProgress},
};
use crate::{
    delivery::activity::Activity,
    domain::{error::BoxError, stream::Position},
    port::{
        EventStore, Transactions,
        delivery::{Delivery, HandlerError},
        state::StateMap,
    },
    runtime::definition::{Projection, ProjectionKind},
    support::skipped_positions,
};

/// A projection: its state, and all that the feeder and the readers share.
pub(crate) struct ProjectionInner<P> {
    state: ProjectionState<P>,
    factory: Option<Box<dyn Fn() -> P + Send + Sync>>,
    /// The shared state of the app that feeds it; behind a lock, as the app starts after the handle is made.
    app_state: RwLock<StateMap>,
    progress: ProgressCell,
    activity: Arc<Activity>,
    /// The positions that it skips, sorted; `None` if they are to be loaded.
    skips: Mutex<Option<Arc<[Position]>>>,
}

enum ProjectionState<P> {
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

impl<P: Projection> ProjectionInner<P> {
    pub(super) fn new(projection: P, factory: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        let definition = P::definition();
        let state = match definition.kind {
            ProjectionKind::InMemory => ProjectionState::Locked(RwLock::new(projection)),
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => ProjectionState::Unlocked(projection),
        };
        let (app_state, activity, skips) = Default::default();
        Self { state, factory, app_state, progress: ProgressCell::new(definition.name), activity, skips }
    }

    pub(crate) const fn progress(&self) -> &ProgressCell {
        &self.progress
    }

    /// Returns the runs of its methods at the moment.
    pub(super) const fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    pub(super) async fn read(&self) -> ProjectionGuard<'_, P> {
        let view = match &self.state {
            ProjectionState::Locked(lock) => StateRef::Locked(lock.read().await),
            ProjectionState::Unlocked(state) => StateRef::Unlocked(state),
        };
        ProjectionGuard::new(view, self.progress.position())
    }

    pub(super) fn new_instance(&self) -> Option<P> {
        self.factory.as_ref().map(|factory| factory())
    }

    /// Returns the instance, and the transactions of the store in which it writes rows.
    pub(super) fn with_transactions(&self, store: &dyn EventStore) -> Option<(&P, Arc<dyn Transactions>)> {
        match &self.state {
            ProjectionState::Locked(_) => None,
            ProjectionState::Unlocked(state) => Some((state, store.transactions()?)),
        }
    }

    /// Returns the result of a rebuild with this last progress.
    pub(super) fn summary(&self, end: &RebuildProgress) -> Rebuilt {
        Rebuilt::from_progress(end, self.count_skipped(end.position))
    }

    /// Gives the methods the app's shared state.
    pub(super) async fn set_app_state(&self, app_state: StateMap) {
        *self.app_state.write().await = app_state;
    }

    pub(super) async fn app_state(&self) -> StateMap {
        self.app_state.read().await.clone()
    }

    /// Returns the positions that it skips; loads them once until they are [cleared](Self::clear_cached_skips).
    pub(super) async fn skips(&self, store: &dyn EventStore) -> Result<Arc<[Position]>, BoxError> {
        if let Some(known) = self.cached_skips() {
            return Ok(known);
        }
        let positions: Arc<[Position]> = skipped_positions(store, &projection_role(P::definition().name)).await?.into();
        *self.skips.lock() = Some(Arc::clone(&positions));
        Ok(positions)
    }

    /// Returns the positions that it skips, if loaded.
    fn cached_skips(&self) -> Option<Arc<[Position]>> {
        self.skips.lock().clone()
    }

    /// Clears the loaded positions, as an operator may have changed them.
    pub(crate) fn clear_cached_skips(&self) {
        *self.skips.lock() = None;
    }

    /// Returns the number of loaded positions up to `position` that it skips.
    pub(super) fn count_skipped(&self, position: Position) -> u64 {
        let skips = self.skips.lock();
        skips.iter().flat_map(|skips| skips.iter()).filter(|skipped| **skipped <= position).count() as u64
    }

    /// Resumes it if an operator has skipped the event at which it stopped.
    pub(super) async fn resume_if_skipped(&self, store: &dyn EventStore) {
        let known = self.cached_skips().unwrap_or_default();
        self.clear_cached_skips();
        let skips = self.skips(store).await.unwrap_or_default();
        if skips.iter().any(|position| !known.contains(position) && self.progress.may_resume_after(*position)) {
            self.progress.resume();
        }
    }

    /// Waits until every event up to `position` is handled.
    pub(super) fn wait_for_position(
        self: &Arc<Self>,
        position: Position,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), ProjectionError>> + Send + 'static {
        let (inner, clock) = (Arc::clone(self), self.progress.clock());
        let mut progress = self.progress.subscribe();
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

    /// Handles an event from a bus: at least once, and in any order.
    pub(crate) async fn handle_from_bus(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let delivery = delivery.clone().with_state(self.app_state().await);
        self.handle_if(&delivery, |_| true).await?;
        if let Some(position) = delivery.record().position() {
            self.progress.raise_position(position);
        }
        Ok(())
    }

    /// Handles an event from a feed, if it is the next one of `generation`. Returns `false` if the position was set
    /// back.
    pub(super) async fn handle_from_feed(&self, delivery: &Delivery, generation: u64) -> Result<bool, HandlerError> {
        let Some(position) = delivery.record().position() else {
            return Ok(true);
        };
        let is_next = |progress: &ProjectionProgress| progress.generation == generation && progress.position < position;
        if P::definition().events.matches(delivery.record().event_type()) {
            self.handle_if(delivery, is_next).await?;
        }
        Ok(self.progress.advance(1, position, generation))
    }

    /// Runs the method for an event, if `accepts` still holds once the state is free.
    async fn handle_if(
        &self,
        delivery: &Delivery,
        accepts: impl Fn(&ProjectionProgress) -> bool,
    ) -> Result<(), HandlerError> {
        match &self.state {
            ProjectionState::Locked(lock) => {
                let mut state = lock.write().await;
                if !accepts(&self.progress.borrow()) {
                    return Ok(());
                }
                let handled = self.run_method(delivery, state.project_mut(delivery)).await;
                if let (Ok(()), Some(position)) = (&handled, delivery.record().position()) {
                    // under the lock, so that a replacement of the state knows which events it includes
                    self.progress.raise_position(position);
                }
                handled
            }
            ProjectionState::Unlocked(state) if accepts(&self.progress.borrow()) => {
                self.run_method(delivery, state.project(delivery, None)).await
            }
            ProjectionState::Unlocked(_) => Ok(()),
        }
    }

    async fn run_method(
        &self,
        delivery: &Delivery,
        handled: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        run_watched(&P::definition(), &self.activity, delivery, handled, &self.progress.clock()).await
    }

    /// Replaces the state by `fresh`, which `catch_up` brings up to date while events wait; waits at most
    /// `guard_timeout` for guards to be dropped.
    pub(super) async fn replace_state<E: From<ProjectionError>>(
        &self,
        mut fresh: P,
        included: Position,
        guard_timeout: Option<Duration>,
        catch_up: impl AsyncFnOnce(&mut P, Position) -> Result<Position, E>,
    ) -> Result<Option<Position>, E> {
        let ProjectionState::Locked(lock) = &self.state else {
            return Ok(None);
        };
        let mut state = match guard_timeout {
            None => lock.write().await,
            Some(timeout) => self
                .progress
                .clock()
                .timeout(timeout, lock.write())
                .await
                .map_err(|_| ProjectionError::Busy { name: P::definition().name, timeout })?,
        };
        // the lock keeps events out, so `target` covers every event that the old state has handled
        let target = self.progress.position().max(included);
        let position = catch_up(&mut fresh, target).await?;
        *state = fresh;
        self.progress.record_replacement(position);
        Ok(Some(position))
    }
}

impl<P> fmt::Debug for ProjectionInner<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectionHandle").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}
