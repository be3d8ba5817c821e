//! Rebuilding a projection from zero.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;

use super::{
    RebuildError,
    feeding::{caught, feed_delivery},
    projected::Projected,
};
use crate::{
    domain::{record::RecordedEvent, stream::Position},
    port::{EventStore, HandlerError, StateMap},
    runtime::definition::{Projection, ProjectionKind},
};

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// Events read so far, those of other types included.
    pub events: u64,
    /// The position of the last one.
    pub position: Position,
    /// The end of the store when the rebuild began: `position` gets at least there.
    pub target: Position,
}

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Events read, those of other types included.
    pub events: u64,
    /// The position up to which the new state includes everything.
    pub position: Position,
    /// How long it took.
    pub took: Duration,
}

/// A rebuild that begins when it is awaited.
#[must_use = "a rebuild begins when it is awaited"]
pub struct Rebuild<'a, T> {
    begin: Begin<'a, T>,
    report: Box<dyn FnMut(RebuildProgress) + Send + 'a>,
}

pub(crate) type Report<'a> = Box<dyn FnMut(RebuildProgress) + Send + 'a>;
pub(crate) type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, RebuildError>> + Send + 'a>>;
type Begin<'a, T> = Box<dyn FnOnce(Report<'a>) -> Running<'a, T> + Send + 'a>;

impl<'a, T> Rebuild<'a, T> {
    pub(crate) fn new(begin: impl FnOnce(Report<'a>) -> Running<'a, T> + Send + 'a) -> Self {
        Self { begin: Box::new(begin), report: Box::new(drop) }
    }

    /// Tells `report` how far it has come, now and then and at the end.
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
    type IntoFuture = Running<'a, T>;

    fn into_future(self) -> Self::IntoFuture {
        (self.begin)(self.report)
    }
}

impl<P: Projection> Projected<P> {
    /// Folds the whole store into a new instance, then replaces the state by it; until then the old one is read.
    ///
    /// Events that an app feeds meanwhile are neither missing nor counted twice; those that a bus delivers afterwards are
    /// counted again.
    ///
    /// # Errors
    /// [`RebuildError`]; the former state still stands.
    pub fn rebuild<'a>(&'a self, store: &'a dyn EventStore) -> Rebuild<'a, Rebuilt> {
        Rebuild::new(move |report| Box::pin(self.replay_in_memory(store, report, None)))
    }

    /// Rebuilds as its kind demands, while an app feeds it; waits for guards to be let go no longer than `patience`.
    pub(crate) async fn rebuild_in_app(
        &self,
        store: &dyn EventStore,
        report: Report<'_>,
        patience: Duration,
    ) -> Result<Rebuilt, RebuildError> {
        match self.definition().kind {
            ProjectionKind::InMemory => self.replay_in_memory(store, report, Some(patience)).await,
            ProjectionKind::Transactional | ProjectionKind::AtLeastOnce => {
                self.replay_through_runner(store, report).await
            }
        }
    }

    async fn replay_in_memory(
        &self,
        store: &dyn EventStore,
        report: Report<'_>,
        patience: Option<Duration>,
    ) -> Result<Rebuilt, RebuildError> {
        let definition = self.definition();
        let name = definition.name;
        if definition.kind != ProjectionKind::InMemory {
            return Err(RebuildError::NotInMemory { name });
        }
        let mut fresh = self.make().ok_or(RebuildError::NoFactory { name })?;
        let mut replay = Replay {
            store,
            state: self.context().await,
            report,
            progress: RebuildProgress { events: 0, position: Position::START, target: store.head().await? },
        };
        let began = Instant::now();
        let target = replay.progress.target;
        replay.until(&mut fresh, target).await?;
        let included = replay.progress.position;
        let replaced = self
            .replace(fresh, included, patience, async |fresh: &mut P, target| {
                replay.until(fresh, target).await?;
                Ok::<_, RebuildError>(replay.progress.position)
            })
            .await?;
        let position = replaced.unwrap_or(included);
        (replay.report)(RebuildProgress { position, ..replay.progress });
        Ok(Rebuilt { events: replay.progress.events, position, took: began.elapsed() })
    }

    /// Has a running app handle every event again, through the instance it has.
    async fn replay_through_runner(
        &self,
        store: &dyn EventStore,
        mut report: Report<'_>,
    ) -> Result<Rebuilt, RebuildError> {
        let began = Instant::now();
        let target = store.head().await?;
        self.restart();
        let mut progress = self.progress().subscribe();
        loop {
            let now = progress.borrow_and_update().clone();
            report(RebuildProgress { events: now.events, position: now.position, target });
            if now.position >= target {
                return Ok(Rebuilt { events: now.events, position: now.position, took: began.elapsed() });
            }
            if let Some(error) = now.why_not_on(self.definition().name) {
                return Err(error.into());
            }
            // an error means that the sender is gone, which `self` keeps from happening
            let _ = progress.changed().await;
        }
    }
}

/// A fold of a store's feed, from where it has come.
struct Replay<'a> {
    store: &'a dyn EventStore,
    state: StateMap,
    report: Report<'a>,
    progress: RebuildProgress,
}

impl Replay<'_> {
    /// Folds everything up to `target`: writers that do not pause would keep it from ever coming to the end.
    async fn until<P: Projection>(&mut self, projection: &mut P, target: Position) -> Result<(), RebuildError> {
        const REPORT_EVERY: u64 = 256;
        if self.progress.position >= target {
            return Ok(());
        }
        let mut feed = self.store.read_all(self.progress.position);
        while let Some(record) = feed.try_next().await? {
            let position = record.position().unwrap_or(self.progress.position);
            let folded = fold(projection, record, &self.state).await;
            folded.map_err(|error| RebuildError::Failed {
                name: P::definition().name,
                position,
                error: error.to_string(),
            })?;
            self.progress.position = position;
            self.progress.events += 1;
            if self.progress.events.is_multiple_of(REPORT_EVERY) {
                (self.report)(self.progress);
            }
            if position >= target {
                return Ok(());
            }
        }
        // the feed ended: whatever is missing up to the target is no event
        self.progress.position = self.progress.position.max(target);
        Ok(())
    }
}

async fn fold<P: Projection>(projection: &mut P, record: RecordedEvent, state: &StateMap) -> Result<(), HandlerError> {
    let definition = P::definition();
    if !definition.events.matches(record.event_type()) {
        return Ok(());
    }
    let delivery = feed_delivery(&definition, record, state);
    caught(projection.project_mut(&delivery)).await
}
