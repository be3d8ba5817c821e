//! A projection without its type: the part that its feeder and its rebuilds see, so that their code is compiled with this
//! crate, not again for each projection of a program.

use std::{future::Future, ops::Deref, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::RwLock, time::Instant};

use super::{
    ProjectionError, ProjectionStatus, RebuildError, RebuildProgress, Rebuilt,
    context::projection_role,
    meter::ProjectionMeter,
    progress::{ProgressCell, ProjectionProgress},
    rebuild_owner::find_rebuild_owner,
    rebuild_progress::ProgressCallback,
};
use crate::{
    delivery::activity::{Activity, RunSeries},
    domain::{clock::SharedClock, error::BoxError, name::Name, stream::Position},
    port::{
        BoxFuture, EventStore, ReadError, Transaction,
        delivery::{Delivery, HandlerError},
        health::Health,
        state::StateMap,
    },
    runtime::definition::{ProjectionDefinition, ProjectionKind},
    support::{SKIPS_REFRESH_INTERVAL, skipped_positions},
};

/// The part of a projection that is the same for all types of projections.
pub(crate) struct ProjectionCore {
    pub(super) definition: ProjectionDefinition,
    /// The shared state of the app that feeds it; behind a lock, as the app starts after the handle is made.
    app_state: RwLock<StateMap>,
    progress: ProgressCell,
    activity: Arc<Activity>,
    /// Locked, as the feeder loads them and an app clears them when an operator changes them.
    skips: Mutex<LoadedSkips>,
}

/// The positions that a projection skips, as they were loaded last.
#[derive(Default, Clone)]
struct LoadedSkips {
    /// Sorted.
    positions: Arc<[Position]>,
    /// `None` if the next reader is to load them.
    loaded_at: Option<Instant>,
    /// How often they were cleared: positions that were read before the last time are loaded again.
    cleared: u64,
}

impl ProjectionCore {
    pub(super) fn new(definition: ProjectionDefinition) -> Self {
        let (app_state, activity, skips) = Default::default();
        Self { definition, app_state, progress: ProgressCell::new(definition.name), activity, skips }
    }

    pub(crate) const fn definition(&self) -> ProjectionDefinition {
        self.definition
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.definition.name
    }

    pub(crate) const fn progress(&self) -> &ProgressCell {
        &self.progress
    }

    /// Returns its counters.
    pub(crate) const fn meter(&self) -> &Arc<ProjectionMeter> {
        self.progress.meter()
    }

    /// Returns its status for a store that ends at `head`.
    pub(crate) fn status(&self, head: Position) -> ProjectionStatus {
        ProjectionStatus::new(&self.definition, &self.progress.borrow(), head, self.count_skipped(head))
    }

    /// Loads its status for a store that ends at `head`, with the process that rebuilds it.
    pub(crate) async fn load_status(
        &self,
        store: &dyn EventStore,
        head: Position,
    ) -> Result<ProjectionStatus, ReadError> {
        let rebuilding = match self.definition.tables {
            [] => None,
            _ => find_rebuild_owner(store, self.name()).await?,
        };
        Ok(ProjectionStatus { rebuilding, ..self.status(head) })
    }

    /// Adds to a report its run of a method that takes long, and that it waits for its store or has yet to catch up.
    pub(crate) fn add_to_health(&self, health: &mut Health) {
        let progress = self.progress.borrow();
        health.waiting.extend(progress.waiting(self.name()));
        health.catching_up.extend(progress.catching_up(&self.definition));
        drop(progress);
        health.in_flight.extend(self.activity.long_run());
    }

    /// Returns the runs of its methods at the moment.
    pub(crate) const fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Returns the result of a rebuild with this last progress.
    pub(super) fn summary(&self, end: &RebuildProgress) -> Rebuilt {
        Rebuilt::from_progress(end, self.count_skipped(end.position))
    }

    /// Returns the error of a rebuild that the store ended by `error`.
    pub(super) fn store_error(&self, error: impl Into<BoxError>) -> RebuildError {
        RebuildError::store(self.name(), error)
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
        let positions: Arc<[Position]> = skipped_positions(store, &projection_role(self.name())).await?.into();
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
        let name = Name::from_static(self.name());
        RunSeries::new(&self.activity, &name, &name, definition.time_limit(), &clock)
    }

    /// Runs the projection's method under its time limit; a panic counts as an error of the event.
    pub(super) async fn run_method(
        &self,
        delivery: &Delivery,
        handled: impl Future<Output = Result<(), HandlerError>>,
    ) -> Result<(), HandlerError> {
        let (definition, clock) = (self.definition, self.progress.clock());
        let name = Name::from_static(self.name());
        self.activity.watch(&name, delivery, definition.time_limit(), None, handled, &clock).await
    }
}

/// A projection of any type, as its app, its feeder and its rebuilds see it.
pub(crate) trait FedProjection: Deref<Target = ProjectionCore> + Send + Sync {
    /// Handles an event from a feed, if it is the next one of `generation`. Returns `false` if the position was set
    /// back.
    fn handle_from_feed<'a>(
        &'a self,
        delivery: &'a Delivery,
        generation: u64,
    ) -> BoxFuture<'a, Result<bool, HandlerError>>;

    /// Runs the method for one event, or for events that all go to one batch method, which writes rows in a
    /// transaction.
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
    ) -> BoxFuture<'a, Result<Rebuilt, RebuildError>>;

    /// Returns `true` while an event is being handled, or a guard is held.
    fn is_in_use(&self) -> bool;
}

impl dyn FedProjection + '_ {
    /// Waits until every event up to `position` is handled; without a position, until state in memory has caught up.
    pub(crate) async fn wait_for_position(
        &self,
        position: Option<Position>,
        timeout: Duration,
    ) -> Result<(), ProjectionError> {
        let (name, kind, clock) = (self.name(), self.definition().kind, self.progress().clock());
        let mut progress = self.progress().subscribe();
        let has_arrived = |now: &ProjectionProgress| match position {
            Some(position) => now.position >= position,
            None => now.has_caught_up || kind != ProjectionKind::InMemory,
        };
        let arrived = progress.wait_for(|now| has_arrived(now) || now.end_reason(name).is_some());
        let in_time = clock.timeout(timeout, arrived).await.is_ok();
        let now = progress.borrow();
        if has_arrived(&now) {
            return Ok(());
        }
        let why = now.end_reason(name).filter(|_| in_time);
        let busy = || match self.is_in_use() {
            true => "an event is being handled, or a guard is held".into(),
            false => "it is still busy".into(),
        };
        Err(why.unwrap_or_else(|| ProjectionError::TimedOut {
            name,
            position: now.position,
            wanted: position.or(now.first_head).unwrap_or_default(),
            timeout,
            problem: now.problem.clone().unwrap_or_else(busy),
        }))
    }
}
