//! The parts of a running app.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{bus_share::BusShare, outage_starts::OutageStarts, tasks::AppTasks};
#[cfg(feature = "opentelemetry")]
use crate::runtime::metrics::CounterExport;
use crate::{
    domain::{clock::SharedClock, name::Name, stream::Position},
    port::{EventBus, EventStore},
    runtime::{
        definition::Projection,
        projection::{AnyProjection, ProjectionError, ProjectionHandle},
        repository::RepositorySource,
    },
};

/// Timeout of the store's head, for an error text. Real time: it is the reply of a server.
const HEAD_TIMEOUT: Duration = Duration::from_millis(500);

/// The parts that the clones of an app share.
pub(super) struct AppInner {
    pub(super) store: Arc<dyn EventStore>,
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) bus_share: BusShare,
    pub(super) has_store: bool,
    /// The bus on which the relay publishes the events of the store.
    pub(super) relayed: Option<Arc<dyn EventBus>>,
    pub(super) groups: Vec<Name>,
    pub(super) projections: Vec<AnyProjection>,
    pub(super) tasks: AppTasks,
    pub(super) repositories: RepositorySource,
    pub(super) wait_timeout: Duration,
    pub(super) shutdown_timeout: Duration,
    /// Dead letters of the bus that `settled` has reported, or that the start found.
    pub(super) reported_dead_letters: AtomicU64,
    /// Start times of the outages of store and bus.
    pub(super) outage_starts: OutageStarts,
    /// The counters at the meter, if the app exports to one.
    #[cfg(feature = "opentelemetry")]
    pub(super) exported_counters: Option<CounterExport>,
}

impl AppInner {
    pub(super) const fn clock(&self) -> &SharedClock {
        &self.tasks.runner_context().clock
    }

    /// Returns the bus of the relay, or else the one that the app consumes.
    pub(super) fn transport(&self) -> &Arc<dyn EventBus> {
        self.relayed.as_ref().unwrap_or(&self.bus)
    }

    /// Returns the number of dead letters of the bus since the last call, or since the start.
    pub(super) fn report_dead_letters(&self) -> u64 {
        let now = self.bus.stats().messages_sent_to_dlq;
        now.saturating_sub(self.reported_dead_letters.swap(now, Ordering::Relaxed))
    }

    /// Returns a projection that the app runs.
    pub(super) fn handle<P: Projection>(&self) -> Result<&ProjectionHandle<P>, ProjectionError> {
        self.projections.iter().find_map(AnyProjection::downcast).ok_or_else(|| ProjectionError::NotRunning {
            name: P::definition().name,
            known: self.projections.iter().map(|projection| projection.definition().name).collect(),
        })
    }

    /// Describes a position that the store does not have yet.
    pub(super) async fn describe_missing_position(&self, wanted: Position) -> Option<String> {
        let head = tokio::time::timeout(HEAD_TIMEOUT, self.store.head()).await.ok()?.ok()?;
        (head < wanted).then(|| format!("the store ends at position {head}"))
    }
}
