//! Rebuilding a projection from zero.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    ProjectionError, RebuildError, RebuildProgress,
    context::{RunnerContext, projection_role},
    fed_projection::FedProjection,
    rebuild_progress::{ProgressCallback, ProgressMeter, Rebuilt},
    shadow_rebuild::ShadowRebuild,
    store_check::check_no_event_is_missing,
};
use crate::{
    runtime::{definition::ProjectionKind, feed_head::LoadedPosition},
    support::{Outage, spans},
};

/// Interval at which a rebuild through the runner checks that this process still feeds the projection.
const OWNER_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Delay until a failed rebuild is retried.
const REBUILD_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A rebuild that begins when it is awaited.
#[derive(derive_more::Debug)]
#[debug("Rebuild")]
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
    pub fn on_progress(self, report: impl FnMut(RebuildProgress) + Send + 'a) -> Self {
        Self { report: Box::new(report), ..self }
    }
}

impl<'a, T> IntoFuture for Rebuild<'a, T> {
    type Output = Result<T, RebuildError>;
    type IntoFuture = RebuildFuture<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        (self.start)(self.report)
    }
}

/// Rebuilds a projection as its kind demands, while an app feeds it; waits at most `guard_timeout` for guards to be
/// dropped.
pub(crate) fn rebuild_in_app<'a>(
    inner: &'a dyn FedProjection,
    context: &'a RunnerContext,
    stop: &'a CancellationToken,
    report: ProgressCallback<'a>,
    guard_timeout: Duration,
) -> RebuildFuture<'a, Rebuilt> {
    Box::pin(rebuild_as_its_kind(inner, context, stop, report, guard_timeout))
}

async fn rebuild_as_its_kind(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    stop: &CancellationToken,
    report: ProgressCallback<'_>,
    guard_timeout: Duration,
) -> Result<Rebuilt, RebuildError> {
    let span = spans::rebuild(inner.name());
    let rebuilding = async {
        let rebuilt = match inner.definition().kind {
            ProjectionKind::InMemory => {
                // the runner may not have set it yet, or there is none: the app is not started
                inner.set_app_state(context.state.clone()).await;
                let replay = inner.rebuild_in_memory(&*context.store, report, guard_timeout);
                stop.run_until_cancelled(replay).await
            }
            // ends by itself, so that it releases its leases
            ProjectionKind::Transactional => Some(ShadowRebuild::new(inner, context, stop)?.run(report).await),
            ProjectionKind::AtLeastOnce => {
                stop.run_until_cancelled(replay_through_runner(inner, context, report)).await
            }
        };
        let (name, position) = (inner.name(), inner.progress().position());
        rebuilt.unwrap_or_else(|| Err(ProjectionError::ShutDown { name, position }.into()))
    };
    let rebuilt = rebuilding.instrument(span.clone()).await;
    if rebuilt.is_err() {
        spans::record_error(&span, "rebuild_failed");
    }
    // a rebuild by a different process has neither failed nor begun here
    if !matches!(rebuilt, Err(RebuildError::Elsewhere { .. })) {
        inner.progress().meter().count_rebuild(rebuilt.is_ok());
    }
    rebuilt
}

/// Restarts the runner of a running app at the first event, with its existing instance, and waits for it.
async fn replay_through_runner(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    report: ProgressCallback<'_>,
) -> Result<Rebuilt, RebuildError> {
    let definition = inner.definition();
    check_is_fed_here(definition.name, context).await?;
    let store = &*context.store;
    check_no_event_is_missing(definition.name, store, None).await?;
    inner.reload_skips(store).await.map_err(|error| RebuildError::store(definition.name, error))?;
    let possible_restores = store.appended().possible_restores();
    let mut meter = ProgressMeter::begin(&definition, store, report, inner.progress()).await?;
    let mut target = LoadedPosition { position: meter.progress().target, possible_restores };
    inner.progress().restart();
    let mut progress = inner.progress().subscribe();
    loop {
        let now = progress.borrow_and_update().clone();
        meter.advance(now.events.saturating_sub(meter.progress().events), now.position);
        if now.position >= target.position {
            return Ok(inner.summary(meter.progress()));
        }
        if let Some(error) = now.end_reason(definition.name) {
            return Err(error.into());
        }
        // an error would mean a dropped sender, which `inner` owns
        let _ = context.clock.timeout(OWNER_CHECK_INTERVAL, progress.changed()).await;
        // while the store cannot be reached the target stays
        if target.lower_after_restore(store).await.is_ok() {
            meter.end_at(target.position);
        }
        if !inner.progress().borrow().is_owner {
            // while the store cannot be reached no process feeds it, and the restart stays due
            if let Err(elsewhere @ RebuildError::Elsewhere { .. }) = check_is_fed_here(definition.name, context).await {
                inner.progress().undo_restart();
                return Err(elsewhere);
            }
        }
    }
}

/// Fails if a different process feeds the projection: only that one can rebuild it.
async fn check_is_fed_here(name: &'static str, context: &RunnerContext) -> Result<(), RebuildError> {
    let role = projection_role(name);
    let lease = context.store.lease_of(&role).await.map_err(|error| RebuildError::store(name, error))?;
    match lease.filter(|lease| lease.owner != context.owner) {
        Some(lease) => Err(RebuildError::Elsewhere { name, owner: Some(lease.owner) }),
        None => Ok(()),
    }
}

/// Rebuilds the rows beside the live ones whenever `needed` is notified: events were missed. Retries while this process
/// feeds the projection; each owner checks anew whether a rebuild is needed.
pub(super) async fn rebuild_when_needed(
    inner: &dyn FedProjection,
    context: &RunnerContext,
    needed: &Notify,
    cancel: &CancellationToken,
) {
    let projection = inner.name();
    let mut outage = Outage::new(context.clock.clone());
    while cancel.run_until_cancelled(needed.notified()).await.is_some() {
        match rebuild_in_app(inner, context, cancel, Box::new(drop), Duration::ZERO).await {
            Ok(rebuilt) => {
                outage.ends();
                tracing::info!(
                    projection, events = rebuilt.events, took = ?rebuilt.took,
                    "the projection was rebuilt with the missed events"
                );
                // the rebuild covers what an owner found meanwhile
                let _ = needed.notified().now_or_never();
                continue;
            }
            Err(_) if cancel.is_cancelled() => return,
            Err(error) if outage.begins() => {
                tracing::error!(projection, %error, "the projection could not be rebuilt, trying again");
            }
            Err(error) => tracing::debug!(projection, %error, "the projection still could not be rebuilt"),
        }
        cancel.run_until_cancelled(context.clock.sleep(REBUILD_RETRY_INTERVAL)).await;
        if inner.progress().borrow().is_owner {
            needed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::{super::inner::ProjectionInner, *};
    use crate::{
        domain::{clock::SharedClock, name::Name, record::RecordedEvent, stream::Position},
        memory::InMemoryEventStore,
        port::state::StateMap,
        runtime::feed_poller::tests::{FailedOver, MINUTE},
    };

    struct Sent;

    #[eventbus::projection(name = "sent", manual)]
    impl Sent {
        fn any(&self, _event: &RecordedEvent) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_rebuild_by_the_runner_ends_with_the_last_event_of_a_promoted_server() {
        let store = FailedOver::over(InMemoryEventStore::new()).await;
        let (shared, owner) = (Arc::new(store.clone()), Name::from_static("a"));
        let context = RunnerContext::new(shared, SharedClock::SYSTEM, StateMap::new(), owner, MINUTE);
        let inner = ProjectionInner::new(Sent, None);
        let mut shown = String::new();
        let report = Box::new(|progress: RebuildProgress| shown = progress.to_string());
        let mut rebuild = Box::pin(replay_through_runner(&inner, &context, report));
        assert!(rebuild.as_mut().now_or_never().is_none(), "the former server has two events");
        store.fail_over();
        // as the runner does
        inner.progress().raise_position(Position::new(1));
        let rebuilt = timeout(MINUTE, rebuild).await.unwrap().unwrap();
        assert_eq!(rebuilt.position.get(), 1);
        assert!(shown.contains("100 %"), "{shown}");
    }
}
