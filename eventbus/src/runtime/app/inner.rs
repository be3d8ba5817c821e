//! The parts of a running app.

use std::{
    any::TypeId,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{outage_starts::OutageStarts, plan::CheckedPlan, tasks::AppTasks};
use crate::{
    domain::{clock::SharedClock, name::Name, stream::Position},
    port::{EventBus, EventStore},
    runtime::{
        definition::Projection,
        projection::{AnyProjection, ProjectionError, ProjectionHandle},
    },
};

/// Timeout of the store's head, for an error text. Real time: it is the reply of a server.
const HEAD_TIMEOUT: Duration = Duration::from_millis(500);

/// The parts that the clones of an app share.
pub(super) struct AppInner {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn EventBus>,
    has_store: bool,
    groups: Vec<Name>,
    projections: Vec<AnyProjection>,
    tasks: AppTasks,
    wait_timeout: Duration,
    shutdown_timeout: Duration,
    /// Dead letters of the bus that `settled` has reported, or that the start found.
    reported_dead_letters: AtomicU64,
    /// Start times of the outages of store and bus.
    outage_starts: OutageStarts,
}

impl AppInner {
    pub(super) fn new(
        store: Arc<dyn EventStore>,
        bus: Arc<dyn EventBus>,
        has_store: bool,
        plan: CheckedPlan,
        tasks: AppTasks,
        (wait_timeout, shutdown_timeout): (Duration, Duration),
        reported_dead_letters: u64,
    ) -> Self {
        let (groups, projections) = (plan.groups(), plan.projections);
        let reported_dead_letters = reported_dead_letters.into();
        Self {
            store,
            bus,
            has_store,
            groups,
            projections,
            tasks,
            wait_timeout,
            shutdown_timeout,
            reported_dead_letters,
            outage_starts: OutageStarts::default(),
        }
    }

    pub(super) const fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    pub(super) const fn bus(&self) -> &Arc<dyn EventBus> {
        &self.bus
    }

    pub(super) const fn has_store(&self) -> bool {
        self.has_store
    }

    pub(super) fn groups(&self) -> &[Name] {
        &self.groups
    }

    pub(super) fn projections(&self) -> &[AnyProjection] {
        &self.projections
    }

    pub(super) const fn tasks(&self) -> &AppTasks {
        &self.tasks
    }

    pub(super) const fn clock(&self) -> &SharedClock {
        &self.tasks.runner_context().clock
    }

    pub(super) const fn longest_wait(&self) -> Duration {
        self.wait_timeout
    }

    pub(super) const fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    pub(super) const fn outage_starts(&self) -> &OutageStarts {
        &self.outage_starts
    }

    /// Returns the number of dead letters of the bus since the last call, or since the start.
    pub(super) fn report_dead_letters(&self) -> u64 {
        let now = self.bus.stats().messages_sent_to_dlq;
        now.saturating_sub(self.reported_dead_letters.swap(now, Ordering::Relaxed))
    }

    /// Returns the handle of a projection of the app.
    pub(super) fn handle<P: Projection>(&self) -> Result<&ProjectionHandle<P>, ProjectionError> {
        self.find_projection::<P>()?.downcast().ok_or_else(|| self.not_running::<P>())
    }

    pub(super) fn find_projection<P: Projection>(&self) -> Result<&AnyProjection, ProjectionError> {
        let is_it = |projection: &&AnyProjection| projection.type_id() == TypeId::of::<P>();
        self.projections.iter().find(is_it).ok_or_else(|| self.not_running::<P>())
    }

    fn not_running<P: Projection>(&self) -> ProjectionError {
        let known = self.projections.iter().map(|projection| projection.definition().name).collect();
        ProjectionError::NotRunning { name: P::definition().name, known }
    }

    /// Describes a position that the store does not have yet.
    pub(super) async fn describe_missing_position(&self, wanted: Position) -> Option<String> {
        let head = tokio::time::timeout(HEAD_TIMEOUT, self.store.head()).await.ok()?.ok()?;
        (head < wanted).then(|| format!("the store ends at position {head}"))
    }
}
