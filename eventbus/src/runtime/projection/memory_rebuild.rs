//! Rebuilding state in memory: replays the feed into a new instance beside the old one, then replaces that.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;

use super::{
    RebuildError,
    event_handling::{feed_delivery, run_watched},
    inner::ProjectionInner,
    rebuild_progress::{ProgressCallback, ProgressMeter, Rebuilt},
};
use crate::{
    delivery::activity::Activity,
    domain::{clock::SharedClock, stream::Position},
    port::{EventStore, FeedFilter, state::StateMap},
    runtime::definition::{Projection, ProjectionKind},
    support::read_around,
};

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
    let target = store.head().await?;
    let filter = FeedFilter::from(definition.events);
    let events = store.count_events(Position::START, target, &filter).await?;
    let meter = ProgressMeter::new(name, target, events, report, inner.progress().clock());
    let (state, activity, clock) = (inner.app_state().await, inner.activity(), inner.progress().clock());
    inner.clear_cached_skips();
    let skips = inner.skips(store).await.map_err(|error| RebuildError::store(name, error))?;
    let mut replay = Replay { skips, store, filter, state, activity, clock, meter };
    replay.replay_until(&mut fresh, target).await?;
    let included = replay.meter.progress().position;
    let replaced = inner
        .replace_state(fresh, included, guard_timeout, async |fresh: &mut P, target| {
            replay.replay_until(fresh, target).await?;
            Ok::<_, RebuildError>(replay.meter.progress().position)
        })
        .await?;
    replay.meter.advance(0, replaced.unwrap_or(included));
    Ok(inner.summary(replay.meter.progress()))
}

/// A replay of a store's feed, with its progress.
struct Replay<'a> {
    store: &'a dyn EventStore,
    skips: Arc<[Position]>,
    filter: FeedFilter,
    state: StateMap,
    activity: &'a Arc<Activity>,
    clock: SharedClock,
    meter: ProgressMeter<'a>,
}

impl Replay<'_> {
    /// Replays all events up to `target`: without that limit, writers that do not pause would keep it from ever ending.
    async fn replay_until<P: Projection>(&mut self, projection: &mut P, target: Position) -> Result<(), RebuildError> {
        const REPORT_EVERY: u64 = 256;
        let mut position = self.meter.progress().position;
        if position >= target {
            return Ok(());
        }
        let mut feed = read_around(self.store, position, target, &self.filter, &self.skips);
        let mut events = 0;
        while let Some(record) = feed.try_next().await? {
            position = record.position().unwrap_or(position);
            let delivery = feed_delivery(&P::definition(), record, &self.state);
            let folded =
                run_watched(&P::definition(), self.activity, &delivery, projection.project_mut(&delivery), &self.clock)
                    .await;
            folded.map_err(|error| RebuildError::Failed {
                name: P::definition().name,
                position,
                error: error.to_string(),
            })?;
            events += 1;
            if events == REPORT_EVERY {
                self.meter.advance(std::mem::take(&mut events), position);
            }
        }
        self.meter.advance(events, target);
        Ok(())
    }
}
