//! Rebuilding a projection from zero.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError, RebuildProgress,
    context::{RunnerContext, projection_role},
    handle::ProjectionHandle,
    rebuild_progress::{ProgressCallback, ProgressMeter, Rebuilt},
    shadow_rebuild::ShadowRebuild,
};
use crate::{
    domain::stream::Position,
    port::{EventStore, FeedFilter},
    runtime::definition::{Projection, ProjectionKind},
};

/// Interval at which a rebuild through the runner checks that this process still feeds the projection.
const OWNER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A rebuild that begins when it is awaited.
#[must_use = "a rebuild begins when it is awaited"]
pub struct Rebuild<'a, T> {
    start: StartRebuildFn<'a, T>,
    report: ProgressCallback<'a>,
}

pub(crate) type RebuildFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, RebuildError>> + Send + 'a>>;
type StartRebuildFn<'a, T> = Box<dyn FnOnce(ProgressCallback<'a>) -> RebuildFuture<'a, T> + Send + 'a>;

impl<'a, T> Rebuild<'a, T> {
    pub(crate) fn new(start: impl FnOnce(ProgressCallback<'a>) -> RebuildFuture<'a, T> + Send + 'a) -> Self {
        Self { start: Box::new(start), report: Box::new(drop) }
    }

    /// Calls `report` with the progress, now and then and at the end.
    pub fn on_progress(mut self, report: impl FnMut(RebuildProgress) + Send + 'a) -> Self {
        self.report = Box::new(report);
        self
    }
}

impl<T> std::fmt::Debug for Rebuild<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rebuild")
    }
}

impl<'a, T> IntoFuture for Rebuild<'a, T> {
    type Output = Result<T, RebuildError>;
    type IntoFuture = RebuildFuture<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        (self.start)(self.report)
    }
}

impl<P: Projection> ProjectionHandle<P> {
    /// Returns the result of a rebuild with this last progress.
    pub(super) fn summary(&self, end: &RebuildProgress) -> Rebuilt {
        Rebuilt::from_progress(end, self.count_skipped(end.position))
    }

    /// Folds the whole store into a new instance, then replaces the state by it; until then the old one is read.
    ///
    /// Events that an app feeds meanwhile are neither missing nor counted twice; those that a bus delivers afterwards
    /// are counted again.
    ///
    /// # Errors
    /// [`RebuildError`]; the former state still stands.
    pub fn rebuild<'a>(&'a self, store: &'a dyn EventStore) -> Rebuild<'a, Rebuilt> {
        Rebuild::new(move |report| Box::pin(self.replay_in_memory(store, report, None)))
    }

    /// Rebuilds as its kind demands, while an app feeds it; waits at most `guard_timeout` for guards to be dropped.
    pub(crate) async fn rebuild_in_app(
        &self,
        context: &RunnerContext,
        stop: &CancellationToken,
        report: ProgressCallback<'_>,
        guard_timeout: Duration,
    ) -> Result<Rebuilt, RebuildError> {
        match self.definition().kind {
            ProjectionKind::InMemory => {
                let replay = self.replay_in_memory(&*context.store, report, Some(guard_timeout));
                let shut_down =
                    || ProjectionError::ShutDown { name: self.definition().name, position: self.position() };
                stop.run_until_cancelled(replay).await.unwrap_or_else(|| Err(shut_down().into()))
            }
            ProjectionKind::Transactional => ShadowRebuild::new(self, context, stop)?.run(report).await,
            ProjectionKind::AtLeastOnce => self.replay_through_runner(context, report).await,
        }
    }

    /// Restarts the runner of a running app at the first event, with its existing instance, and waits for it.
    async fn replay_through_runner(
        &self,
        context: &RunnerContext,
        report: ProgressCallback<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let definition = self.definition();
        self.check_is_fed_here(context).await?;
        let target = context.store.head().await?;
        let filter = FeedFilter::from(definition.events);
        let events = context.store.count_events(Position::START, target, &filter).await?;
        let mut meter = ProgressMeter::new(definition.name, target, events, report, context.clock.clone());
        self.restart();
        let mut progress = self.progress().subscribe();
        loop {
            let now = progress.borrow_and_update().clone();
            meter.advance(now.events.saturating_sub(meter.progress.events), now.position);
            if now.position >= target {
                return Ok(self.summary(&meter.progress));
            }
            if let Some(error) = now.end_reason(definition.name) {
                return Err(error.into());
            }
            // an error would mean a dropped sender, which `self` owns
            let _ = context.clock.timeout(OWNER_CHECK_INTERVAL, progress.changed()).await;
            if !self.progress().borrow().is_owner {
                let checked = self.check_is_fed_here(context).await;
                if let Err(RebuildError::Elsewhere { .. }) = &checked {
                    self.undo_restart();
                }
                checked?;
            }
        }
    }

    /// Fails if a different process feeds the projection: only that one can rebuild it.
    async fn check_is_fed_here(&self, context: &RunnerContext) -> Result<(), RebuildError> {
        let name = self.definition().name;
        let role = projection_role(name);
        let lease = context.store.lease_of(&role).await.map_err(|error| RebuildError::store(name, error))?;
        match lease.filter(|lease| lease.owner != context.owner) {
            Some(lease) => Err(RebuildError::Elsewhere { name, owner: Some(lease.owner) }),
            None => Ok(()),
        }
    }
}
