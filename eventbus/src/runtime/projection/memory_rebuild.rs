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
    runtime::{
        definition::{Projection, ProjectionKind, VisitedFold},
        feed_head::LoadedPosition,
        feed_poller::EndCheck,
    },
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
    let possible_restores = store.appended().possible_restores();
    let meter = ProgressMeter::begin(&definition, store, report, inner.progress()).await?;
    let target = meter.progress().target;
    let (state, end_check) = (inner.app_state().await, EndCheck::new(store));
    let mut replay = Replay { inner, skips, store, state, possible_restores, end_check, meter };
    replay_checked(name, store, replay.replay_until(&mut fresh, target)).await?;
    let included = replay.meter.progress().position;
    let replaced = inner
        .replace_state(fresh, included, guard_timeout, async |fresh: &mut P, target| {
            replay.replay_until(fresh, target).await?;
            Ok::<_, RebuildError>(replay.meter.progress().position)
        })
        .await?;
    replay.meter.end_at(replaced);
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
    /// The number of [possible restores](crate::port::AppendSignal::possible_restores) when it began.
    possible_restores: u64,
    /// Made after the target was loaded: `possible_restores` covers the time before.
    end_check: EndCheck,
    meter: ProgressMeter<'a>,
}

impl<P: Projection> Replay<'_, P> {
    /// Replays all events up to `target`, or up to the end of a store that ends before it: without that limit, writers that
    /// do not pause would keep it from ever ending.
    async fn replay_until(&mut self, fresh: &mut P, target: Position) -> Result<(), RebuildError> {
        let mut target = LoadedPosition { position: target, possible_restores: self.possible_restores };
        loop {
            target.lower_after_restore(self.store).await?;
            if self.meter.progress().position >= target.position {
                return Ok(());
            }
            match P::visited_fold() {
                Some(fold) => self.fold_until(fresh, fold, target.position).await?,
                None => self.project_until(fresh, target.position).await?,
            }
        }
    }

    /// Replays the events up to `target` one by one.
    async fn project_until(&mut self, fresh: &mut P, target: Position) -> Result<(), RebuildError> {
        let mut position = self.meter.progress().position;
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
        self.meter.advance(events, self.end_check.passed(self.store, position, target));
        Ok(())
    }

    /// Replays the events up to `target` as the store visits them, without their metadata.
    async fn fold_until(&mut self, fresh: &mut P, fold: VisitedFold<P>, target: Position) -> Result<(), RebuildError> {
        let definition = P::definition();
        let (filter, position) = (definition.events.into(), self.meter.progress().position);
        let (mut last, mut events, mut failed) = (position, 0, None);
        for (after, through) in ranges_around(position, target, &self.skips) {
            let mut visit = |event: VisitedFeedEvent<'_>| {
                let folded =
                    catch_unwind(AssertUnwindSafe(|| fold(fresh, event).inspect_err(HandlerError::check_text)));
                if let Err(error) = folded.unwrap_or_else(|panic| Err(HandlerError::from_panic(&*panic))) {
                    failed = Some(RebuildError::failed(definition.name, Some(event.position), &error));
                    return ControlFlow::Break(());
                }
                (last, events) = (event.position, events + 1);
                if events == REPORT_EVERY {
                    self.meter.advance(std::mem::take(&mut events), last);
                }
                ControlFlow::Continue(())
            };
            self.store.visit_feed(after, through, &filter, &mut visit).await?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        self.meter.advance(events, self.end_check.passed(self.store, last, target));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ProjectionHandle,
        delivery::activity::tests::WithoutText,
        domain::{
            record::{NewEvent, RecordedEvent},
            stream::{ExpectedVersion, StreamId},
        },
        memory::InMemoryEventStore,
        port::AppendEvents as _,
        runtime::feed_poller::tests::FailedOver,
    };

    #[derive(Default)]
    struct Replayed(u64);

    #[eventbus::projection(name = "replayed", manual)]
    impl Replayed {
        fn any(&mut self, _event: &RecordedEvent) {
            self.0 += 1;
        }
    }

    #[derive(Debug, serde::Serialize, serde::Deserialize, eventbus::DomainEvent)]
    #[event(aggregate_type = "Order")]
    struct Noted {}

    #[derive(Default)]
    struct Folded(u64);

    #[eventbus::projection(name = "folded", manual)]
    impl Folded {
        fn noted(&mut self, _event: &Noted) {
            self.0 += 1;
        }
    }

    /// Returns the position of a state that had passed `before`, once it is rebuilt while a replica with one event replaces
    /// the server, which had two.
    async fn position_after_failover<P: Projection + Default>(before: u64) -> Position {
        let state = ProjectionHandle::with_factory(P::default);
        state.inner().progress().raise_position(Position::new(before));
        let store = FailedOver::over(InMemoryEventStore::new()).await;
        let mut shown = String::new();
        let rebuilt = state.rebuild(&store).on_progress(|progress| shown = progress.to_string()).await.unwrap();
        assert!(shown.contains("100 %"), "{shown}");
        assert_eq!((rebuilt.events, rebuilt.position), (1, state.position()));
        state.position()
    }

    #[tokio::test]
    async fn a_rebuild_over_a_failover_ends_with_the_last_event_of_the_promoted_server() {
        assert!(Replayed::visited_fold().is_none() && Folded::visited_fold().is_some());
        for before in [0, 5] {
            assert_eq!(position_after_failover::<Replayed>(before).await, 1);
            assert_eq!(position_after_failover::<Folded>(before).await, 1);
        }
    }

    #[derive(Default)]
    struct Refusing;

    #[eventbus::projection(name = "refusing", manual)]
    impl Refusing {
        fn noted(&mut self, _event: &Noted) -> Result<(), WithoutText> {
            Err(WithoutText)
        }
    }

    #[tokio::test]
    async fn a_rebuild_fails_at_an_event_for_which_the_text_of_the_error_panics() {
        assert!(Refusing::visited_fold().is_some());
        let store = InMemoryEventStore::new();
        let event = NewEvent::from_event(&Noted {}).unwrap();
        store.append(&StreamId::parse("Order", "1").unwrap(), ExpectedVersion::Any, vec![event]).await.unwrap();
        let error = ProjectionHandle::with_factory(Refusing::default).rebuild(&store).await.unwrap_err();
        assert!(matches!(&error, RebuildError::Failed { position, .. } if *position == 1), "{error}");
        assert!(error.to_string().ends_with("handler panicked: no text"), "{error}");
    }
}
