//! Rebuilding a projection from zero.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, RebuildError, RebuildProgress,
    projected::Projected,
    rebuild_progress::Meter,
    runner::{RunWith, role_of},
    shadow::ShadowRebuild,
};
use crate::{
    domain::{shown, stream::Position},
    port::{EventStore, FeedFilter},
    runtime::definition::{Projection, ProjectionKind},
};

/// How often a rebuild that another process may have to do looks who feeds the projection.
const LOOK: Duration = Duration::from_secs(1);

/// What a rebuild did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Events handled, those before an interruption included.
    pub events: u64,
    /// Events left out, as an operator had [them skipped](crate::App::skip_event).
    pub skipped: u64,
    /// The position up to which the new state includes everything.
    pub position: Position,
    /// How long it took, the time before an interruption not included; in seconds where it is serialized.
    #[serde(serialize_with = "shown::duration")]
    pub took: Duration,
}

impl Rebuilt {
    const fn of(end: &RebuildProgress, skipped: u64) -> Self {
        Self { events: end.events, skipped, position: end.position, took: end.took }
    }
}

impl<P: Projection> Projected<P> {
    /// What a rebuild did that ended so.
    pub(super) fn rebuilt(&self, end: &RebuildProgress) -> Rebuilt {
        Rebuilt::of(end, self.skipped_through(end.position))
    }
}

/// A rebuild that begins when it is awaited.
#[must_use = "a rebuild begins when it is awaited"]
pub struct Rebuild<'a, T> {
    begin: Begin<'a, T>,
    report: Report<'a>,
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
        with: &RunWith,
        stop: &CancellationToken,
        report: Report<'_>,
        patience: Duration,
    ) -> Result<Rebuilt, RebuildError> {
        match self.definition().kind {
            ProjectionKind::InMemory => {
                let replay = self.replay_in_memory(&*with.store, report, Some(patience));
                let shut_down =
                    || ProjectionError::ShutDown { name: self.definition().name, position: self.position() };
                stop.run_until_cancelled(replay).await.unwrap_or_else(|| Err(shut_down().into()))
            }
            ProjectionKind::Transactional => ShadowRebuild::new(self, with, stop)?.run(report).await,
            ProjectionKind::AtLeastOnce => self.replay_through_runner(with, report).await,
        }
    }

    /// Has a running app handle every event again, through the instance it has.
    async fn replay_through_runner(&self, with: &RunWith, report: Report<'_>) -> Result<Rebuilt, RebuildError> {
        let definition = self.definition();
        self.check_that_it_is_fed_here(with).await?;
        let target = with.store.head().await?;
        let filter = FeedFilter::from(definition.events);
        let events = with.store.count_events(Position::START, target, &filter).await?;
        let mut meter = Meter::new(definition.name, target, events, report, with.clock.clone());
        self.restart();
        let mut progress = self.progress().subscribe();
        loop {
            let now = progress.borrow_and_update().clone();
            meter.tell(now.events.saturating_sub(meter.now.events), now.position);
            if now.position >= target {
                return Ok(self.rebuilt(&meter.now));
            }
            if let Some(error) = now.why_not_on(definition.name) {
                return Err(error.into());
            }
            // an error means that the sender is gone, which `self` keeps from happening
            let _ = with.clock.timeout(LOOK, progress.changed()).await;
            if !self.progress().borrow().is_owner {
                let checked = self.check_that_it_is_fed_here(with).await;
                if let Err(RebuildError::Elsewhere { .. }) = &checked {
                    self.undo_restart();
                }
                checked?;
            }
        }
    }

    /// Refuses what only the process that feeds the projection can do.
    async fn check_that_it_is_fed_here(&self, with: &RunWith) -> Result<(), RebuildError> {
        let name = self.definition().name;
        let role = role_of(name);
        let lease = with.store.lease_of(&role).await.map_err(|error| RebuildError::store(name, error))?;
        match lease.filter(|lease| lease.owner != with.owner) {
            Some(lease) => Err(RebuildError::Elsewhere { name, owner: Some(lease.owner) }),
            None => Ok(()),
        }
    }
}
