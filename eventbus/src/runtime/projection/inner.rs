//! Insides of a projection's handle: the state, which events and rebuilds change, and its progress.

use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::RwLock, time::Instant};

use super::{
    ProjectionError, RebuildProgress, Rebuilt,
    context::projection_role,
    guard::ProjectionGuard,
    memory_rebuild::replay_in_memory,
    progress::{ProgressCell, ProjectionProgress},
    rebuild::RebuildFuture,
    rebuild_progress::ProgressCallback,
};
use crate::{
    delivery::activity::{Activity, RunSeries},
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::{
        BoxFuture, EventStore, Transaction,
        delivery::{Delivery, HandlerError},
        state::StateMap,
    },
    runtime::definition::{Projection, ProjectionDefinition, ProjectionKind},
    support::{SKIPS_REFRESH_INTERVAL, skipped_positions},
};

/// A projection: its state, and all that the feeder and the readers share.
#[derive(derive_more::Debug)]
#[debug("ProjectionHandle {{ progress: {:?}, .. }}", *core.progress.borrow())]
pub(crate) struct ProjectionInner<P> {
    /// `&mut self` methods lock it, so that an event and a reader exclude each other; `&self` methods only read it.
    state: RwLock<P>,
    factory: Option<Box<dyn Fn() -> P + Send + Sync>>,
    core: ProjectionCore,
}

/// The part of a projection that is the same for all types of projections.
pub(crate) struct ProjectionCore {
    definition: ProjectionDefinition,
    /// The shared state of the app that feeds it; behind a lock, as the app starts after the handle is made.
    app_state: RwLock<StateMap>,
    progress: ProgressCell,
    activity: Arc<Activity>,
    /// Locked, as the feeder loads them and an app clears them when an operator changes them.
    skips: Mutex<LoadedSkips>,
}

/// A projection of any type, as its feeder and its rebuilds see it.
///
/// They take this trait object instead of a type parameter: so their code is compiled once, with this crate, and not again for
/// each projection of a program.
pub(crate) trait FedProjection: Deref<Target = ProjectionCore> + Send + Sync {
    /// Handles an event from a feed, if it is the next one of `generation`. Returns `false` if the position was set
    /// back.
    fn handle_from_feed<'a>(
        &'a self,
        delivery: &'a Delivery,
        generation: u64,
    ) -> BoxFuture<'a, Result<bool, HandlerError>>;

    /// Runs the method for one event, or for events that all go to one batch method, which writes rows in a transaction.
    fn write_rows<'a>(
        &'a self,
        deliveries: &'a [Delivery],
        transaction: &'a mut dyn Transaction,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;

    /// Replays the store's feed into a new instance, then replaces the state by it; waits at most `guard_timeout` for
    /// guards to be dropped.
    fn rebuild_in_memory<'a>(
        &'a self,
        store: &'a dyn EventStore,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt>;
}

/// The positions that a projection skips, as they were loaded last.
#[derive(Default, Clone)]
struct LoadedSkips {
    /// Sorted.
    positions: Arc<[Position]>,
    /// `None` if the next reader is to load them.
    loaded_at: Option<Instant>,
    /// How often they were cleared: what was read before is loaded again.
    cleared: u64,
}

impl ProjectionCore {
    fn new(definition: ProjectionDefinition) -> Self {
        let (app_state, activity, skips) = Default::default();
        Self { definition, app_state, progress: ProgressCell::new(definition.name), activity, skips }
    }

    pub(crate) const fn definition(&self) -> ProjectionDefinition {
        self.definition
    }

    pub(crate) const fn progress(&self) -> &ProgressCell {
        &self.progress
    }

    /// Returns the runs of its methods at the moment.
    pub(super) const fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Returns the result of a rebuild with this last progress.
    pub(super) fn summary(&self, end: &RebuildProgress) -> Rebuilt {
        Rebuilt::from_progress(end, self.count_skipped(end.position))
    }

    /// Gives the methods the app's shared state.
    pub(crate) async fn set_app_state(&self, app_state: StateMap) {
        *self.app_state.write().await = app_state;
    }

    pub(super) async fn app_state(&self) -> StateMap {
        self.app_state.read().await.clone()
    }

    /// Returns the positions that it skips; loads them anew after [`SKIPS_REFRESH_INTERVAL`], as an operator may have
    /// changed them.
    pub(super) async fn skips(&self, store: &dyn EventStore, clock: &SharedClock) -> Result<Arc<[Position]>, BoxError> {
        let LoadedSkips { positions, loaded_at, .. } = self.skips.lock().clone();
        if loaded_at.is_some_and(|at| clock.elapsed(at) < SKIPS_REFRESH_INTERVAL) {
            return Ok(positions);
        }
        self.load_skips(store, Some(clock.instant())).await
    }

    /// Loads the positions that it skips anew, as an operator may have changed them.
    pub(super) async fn reload_skips(&self, store: &dyn EventStore) -> Result<Arc<[Position]>, BoxError> {
        self.load_skips(store, None).await
    }

    async fn load_skips(
        &self,
        store: &dyn EventStore,
        loaded_at: Option<Instant>,
    ) -> Result<Arc<[Position]>, BoxError> {
        let cleared = self.skips.lock().cleared;
        let positions: Arc<[Position]> = skipped_positions(store, &projection_role(self.definition.name)).await?.into();
        let mut skips = self.skips.lock();
        let loaded_at = loaded_at.filter(|_| skips.cleared == cleared);
        *skips = LoadedSkips { positions: Arc::clone(&positions), loaded_at, cleared: skips.cleared };
        drop(skips);
        Ok(positions)
    }

    /// Clears the loaded positions, as an operator may have changed them.
    pub(crate) fn clear_cached_skips(&self) {
        let mut skips = self.skips.lock();
        (skips.loaded_at, skips.cleared) = (None, skips.cleared.wrapping_add(1));
    }

    /// Returns the number of loaded positions up to `position` that it skips.
    pub(super) fn count_skipped(&self, position: Position) -> u64 {
        self.skips.lock().positions.iter().filter(|skipped| **skipped <= position).count() as u64
    }

    /// Resumes it if an operator has skipped the event at which it stopped.
    pub(super) async fn resume_if_skipped(&self, store: &dyn EventStore) {
        let known = Arc::clone(&self.skips.lock().positions);
        let skips = self.reload_skips(store).await.unwrap_or_default();
        if skips.iter().any(|position| !known.contains(position) && self.progress.may_resume_after(*position)) {
            self.progress.resume();
        }
    }

    /// Returns the runs of the method for many events, on a new instance.
    pub(super) fn run_series(&self) -> RunSeries {
        let (definition, clock) = (self.definition, self.progress.clock());
        let name = Name::from_static(definition.name);
        RunSeries::new(&self.activity, &name, &name, definition.time_limit(), &clock)
    }

    /// Runs the projection's method under its time limit; a panic counts as an error of the event.
    async fn run_method(
        &self,
        delivery: &Delivery,
        handled: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        let (definition, clock) = (self.definition, self.progress.clock());
        let name = Name::from_static(definition.name);
        self.activity.watch(&name, delivery, definition.time_limit(), None, handled, &clock).await
    }
}

impl<P: Projection> ProjectionInner<P> {
    pub(super) fn new(projection: P, factory: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        Self { state: RwLock::new(projection), factory, core: ProjectionCore::new(P::definition()) }
    }

    pub(super) async fn read(&self) -> ProjectionGuard<'_, P> {
        ProjectionGuard::new(self.state.read().await, self.progress.position())
    }

    pub(super) fn new_instance(&self) -> Option<P> {
        self.factory.as_ref().map(|factory| factory())
    }

    #[cfg(feature = "testkit")]
    pub(super) fn into_projection(self) -> P {
        self.state.into_inner()
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
            let name = inner.definition.name;
            let arrived = progress.wait_for(|now| now.position >= position || now.end_reason(name).is_some());
            let in_time = clock.timeout(timeout, arrived).await.is_ok();
            let now = progress.borrow();
            if now.position >= position {
                return Ok(());
            }
            let why = now.end_reason(name).filter(|_| in_time);
            let busy = || {
                let in_use = "an event is being handled, or a guard is held";
                let is_in_use = inner.state.try_read().is_err();
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

    /// Runs the method for an event, if `accepts` still holds once the state is free.
    async fn handle_if(
        &self,
        delivery: &Delivery,
        accepts: impl Fn(&ProjectionProgress) -> bool,
    ) -> Result<(), HandlerError> {
        if self.definition.kind != ProjectionKind::InMemory {
            if !accepts(&self.progress.borrow()) {
                return Ok(());
            }
            self.run_method(delivery, self.state.read().await.project(delivery, None)).await?;
            self.progress.meter().count_events(1);
            return Ok(());
        }
        let mut state = self.state.write().await;
        if !accepts(&self.progress.borrow()) {
            return Ok(());
        }
        let handled = self.run_method(delivery, state.project_mut(delivery)).await;
        if let (Ok(()), Some(position)) = (&handled, delivery.record().position()) {
            // under the lock, so that a replacement of the state knows which events it includes
            self.progress.raise_position(position);
            self.progress.meter().count_events(1);
        }
        handled
    }

    /// Replaces the state by `fresh`, which `catch_up` brings up to date while events wait; waits at most
    /// `guard_timeout` for guards to be dropped.
    pub(super) async fn replace_state<E: From<ProjectionError>>(
        &self,
        mut fresh: P,
        included: Position,
        guard_timeout: Option<Duration>,
        catch_up: impl AsyncFnOnce(&mut P, Position) -> Result<Position, E>,
    ) -> Result<Position, E> {
        let mut state = match guard_timeout {
            None => self.state.write().await,
            Some(timeout) => {
                let locked = self.progress.clock().timeout(timeout, self.state.write()).await;
                locked.map_err(|_| ProjectionError::Busy { name: self.definition.name, timeout })?
            }
        };
        // the lock keeps events out, so `target` covers every event that the old state has handled
        let target = self.progress.position().max(included);
        let position = catch_up(&mut fresh, target).await?;
        *state = fresh;
        self.progress.record_replacement(position);
        Ok(position)
    }
}

impl<P> Deref for ProjectionInner<P> {
    type Target = ProjectionCore;

    fn deref(&self) -> &ProjectionCore {
        &self.core
    }
}

impl<P: Projection> FedProjection for ProjectionInner<P> {
    fn handle_from_feed<'a>(
        &'a self,
        delivery: &'a Delivery,
        generation: u64,
    ) -> BoxFuture<'a, Result<bool, HandlerError>> {
        Box::pin(async move {
            let Some(position) = delivery.record().position() else {
                return Ok(true);
            };
            let is_next =
                |progress: &ProjectionProgress| progress.generation == generation && progress.position < position;
            if self.definition.events.matches(delivery.record().event_type()) {
                self.handle_if(delivery, is_next).await?;
            }
            Ok(self.progress.advance(1, position, generation))
        })
    }

    fn write_rows<'a>(
        &'a self,
        deliveries: &'a [Delivery],
        transaction: &'a mut dyn Transaction,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            let Some(first) = deliveries.first() else { return Ok(()) };
            let (state, transaction) = (self.state.read().await, Some(transaction.as_any_mut()));
            let handled = match deliveries {
                [delivery] => state.project(delivery, transaction),
                _ => state.project_batch(deliveries, transaction),
            };
            self.run_method(first, handled).await
        })
    }

    fn rebuild_in_memory<'a>(
        &'a self,
        store: &'a dyn EventStore,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt> {
        Box::pin(replay_in_memory(self, store, report, Some(guard_timeout)))
    }
}
