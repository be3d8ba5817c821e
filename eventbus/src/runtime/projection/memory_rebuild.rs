//! Rebuilding state in memory: replays the feed into a new instance beside the old one, then replaces that.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt;

use super::{
    RebuildError,
    event_handling::feed_delivery,
    inner::ProjectionInner,
    rebuild_progress::{ProgressCallback, ProgressMeter, Rebuilt},
    store_check::check_no_event_is_missing,
};
use crate::{
    domain::stream::Position,
    port::{EventStore, delivery::HandlerError, state::StateMap, visited_event::VisitedFeedEvent},
    runtime::definition::{Projection, ProjectionKind, VisitedFold},
    support::{ranges_around, read_around},
};

/// Number of events after which a replay reports its progress.
const REPORT_EVERY: u64 = 256;

/// Replays the store's feed into a new instance, then replaces the state by it; waits at most `guard_timeout` for
/// guards to be dropped.
pub(super) async fn replay_in_memory<P: Projection>(
    inner: &ProjectionInner<P>,
    store: &dyn EventStore,
    report: ProgressCallback<'_>,
    guard_timeout: Option<Duration>,
) -> Result<Rebuilt, RebuildError> {
    let definition = P::definition();
    let name = definition.name;
    if definition.kind != ProjectionKind::InMemory {
        return Err(RebuildError::NotInMemory { name });
    }
    let mut fresh = inner.new_instance().ok_or(RebuildError::NoFactory { name })?;
    let skips = inner.reload_skips(store).await.map_err(|error| RebuildError::store(name, error))?;
    let meter = ProgressMeter::begin(&definition, store, report, inner.progress()).await?;
    let target = meter.progress().target;
    let mut replay = Replay { inner, skips, store, state: inner.app_state().await, meter };
    replay_checked(name, store, replay.replay_until(&mut fresh, target)).await?;
    let included = replay.meter.progress().position;
    let replaced = inner
        .replace_state(fresh, included, guard_timeout, async |fresh: &mut P, target| {
            replay.replay_until(fresh, target).await?;
            Ok::<_, RebuildError>(replay.meter.progress().position)
        })
        .await?;
    replay.meter.advance(0, replaced);
    Ok(inner.summary(replay.meter.progress()))
}

/// Searches for missing events beside a replay. The replay may fail because of one: then the search has the error.
async fn replay_checked(
    name: &'static str,
    store: &dyn EventStore,
    replay: impl Future<Output = Result<(), RebuildError>>,
) -> Result<(), RebuildError> {
    let (mut check, mut replay) = (pin!(check_no_event_is_missing(name, store, None)), pin!(replay));
    // the first error of the search ends the replay
    tokio::select! {
        checked = &mut check => {
            checked?;
            replay.await
        }
        replayed = &mut replay => {
            check.await?;
            replayed
        }
    }
}

/// A replay of a store's feed, with its progress.
struct Replay<'a, P> {
    inner: &'a ProjectionInner<P>,
    store: &'a dyn EventStore,
    skips: Arc<[Position]>,
    state: StateMap,
    meter: ProgressMeter<'a>,
}

impl<P: Projection> Replay<'_, P> {
    /// Replays all events up to `target`: without that limit, writers that do not pause would keep it from ever ending.
    async fn replay_until(&mut self, fresh: &mut P, target: Position) -> Result<(), RebuildError> {
        let mut position = self.meter.progress().position;
        if position >= target {
            return Ok(());
        }
        if let Some(fold) = P::visited_fold() {
            return self.fold_until(fresh, fold, target).await;
        }
        let definition = P::definition();
        let mut feed = read_around(self.store, position, target, &definition.events.into(), &self.skips);
        let (mut runs, mut events) = (self.inner.run_series(), 0);
        while let Some(record) = feed.try_next().await? {
            position = record.position().unwrap_or(position);
            let delivery = feed_delivery(&definition, record, &self.state);
            let folded = runs.watch(delivery.record(), None, fresh.project_mut(&delivery)).await;
            folded.map_err(|error| RebuildError::failed(definition.name, Some(position), &error))?;
            events += 1;
            if events == REPORT_EVERY {
                self.meter.advance(std::mem::take(&mut events), position);
            }
        }
        self.meter.advance(events, target);
        Ok(())
    }

    /// Replays the events up to `target` as the store visits them, without their metadata.
    async fn fold_until(&mut self, fresh: &mut P, fold: VisitedFold<P>, target: Position) -> Result<(), RebuildError> {
        let definition = P::definition();
        let (filter, position) = (definition.events.into(), self.meter.progress().position);
        let (mut events, mut failed) = (0, None);
        for (after, through) in ranges_around(position, target, &self.skips) {
            let mut visit = |event: VisitedFeedEvent<'_>| {
                let folded = catch_unwind(AssertUnwindSafe(|| fold(fresh, event)));
                if let Err(error) = folded.unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic))) {
                    failed = Some(RebuildError::failed(definition.name, Some(event.position), &error));
                    return ControlFlow::Break(());
                }
                events += 1;
                if events == REPORT_EVERY {
                    self.meter.advance(std::mem::take(&mut events), event.position);
                }
                ControlFlow::Continue(())
            };
            self.store.visit_feed(after, through, &filter, &mut visit).await?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        self.meter.advance(events, target);
        Ok(())
    }
}
