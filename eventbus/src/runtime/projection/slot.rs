//! A projection whose type is forgotten, as the app keeps it.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, ProjectionStatus,
    projected::Projected,
    runner::{self, FeedProjection, RunWith},
    shadow::rebuild_of,
    status::RebuildOwner,
};
use crate::{
    domain::stream::Position,
    port::{BoxFuture, EventStore, Health, ReadError, activity::Activity},
    runtime::definition::{Projection, ProjectionDefinition},
};

/// A projection whose type is forgotten, as the app keeps it.
#[doc(hidden)]
#[derive(Clone)]
pub struct ProjectionSlot {
    definition: ProjectionDefinition,
    type_id: TypeId,
    projected: Arc<dyn Erased>,
}

trait Erased: Any + Send + Sync {
    fn run(&self, with: RunWith, cancel: CancellationToken) -> BoxFuture<'static, ()>;
    fn reached(&self, position: Position, timeout: Duration) -> BoxFuture<'static, Result<(), ProjectionError>>;
    fn status(&self, head: Position) -> ProjectionStatus;
    fn rebuilding<'a>(&self, store: &'a dyn EventStore) -> BoxFuture<'a, Result<Option<RebuildOwner>, ReadError>>;
    fn report(&self, health: Health) -> Health;
    fn activity(&self) -> Arc<Activity>;
}

impl<P: Projection> Erased for Projected<P> {
    fn run(&self, with: RunWith, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        self.set_clock(with.clock.clone());
        Box::pin(runner::run(FeedProjection::new(self.clone(), with), cancel))
    }

    fn reached(&self, position: Position, timeout: Duration) -> BoxFuture<'static, Result<(), ProjectionError>> {
        Box::pin(Self::reached(self, position, timeout))
    }

    fn status(&self, head: Position) -> ProjectionStatus {
        ProjectionStatus::new(&self.definition(), &self.progress().borrow(), head, self.skipped_through(head))
    }

    fn rebuilding<'a>(&self, store: &'a dyn EventStore) -> BoxFuture<'a, Result<Option<RebuildOwner>, ReadError>> {
        Box::pin(async move {
            match P::definition().tables {
                [] => Ok(None),
                _ => rebuild_of(store, P::definition().name).await,
            }
        })
    }

    fn report(&self, health: Health) -> Health {
        let waiting = self.progress().borrow().waiting(self.definition().name);
        let in_flight = self.activity().long_run();
        health.with_waiting(waiting.into_iter().collect()).with_in_flight(in_flight.into_iter().collect())
    }

    fn activity(&self) -> Arc<Activity> {
        Arc::clone(self.activity())
    }
}

impl ProjectionSlot {
    /// A slot with the default instance of `P`, if it has one.
    #[must_use]
    pub fn with_default<P: Projection>(factory: Option<fn() -> P>) -> Option<Self> {
        factory.map(|make| Self::of(Projected::with(make)))
    }

    pub(crate) fn of<P: Projection>(projected: Projected<P>) -> Self {
        Self { definition: P::definition(), type_id: TypeId::of::<P>(), projected: Arc::new(projected) }
    }

    pub(crate) const fn definition(&self) -> &ProjectionDefinition {
        &self.definition
    }

    /// The projection, if it is a `P`.
    pub(crate) fn downcast<P: Projection>(&self) -> Option<&Projected<P>> {
        let any: &dyn Any = &*self.projected;
        any.downcast_ref()
    }

    pub(crate) const fn type_id(&self) -> TypeId {
        self.type_id
    }

    pub(crate) fn run(&self, with: RunWith, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        self.projected.run(with, cancel)
    }

    pub(crate) fn reached(
        &self,
        position: Position,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), ProjectionError>> {
        self.projected.reached(position, timeout)
    }

    /// Adds to a report what it runs for long, and that it waits for its store.
    pub(crate) fn report(&self, health: Health) -> Health {
        self.projected.report(health)
    }

    /// What its methods run at the moment.
    pub(crate) fn activity(&self) -> Arc<Activity> {
        self.projected.activity()
    }

    /// How it is doing, where the store ends at `head`, and who rebuilds it.
    pub(crate) async fn full_status(
        &self,
        store: &dyn EventStore,
        head: Position,
    ) -> Result<ProjectionStatus, ReadError> {
        let rebuilding = self.projected.rebuilding(store).await?;
        Ok(ProjectionStatus { rebuilding, ..self.projected.status(head) })
    }

    /// How it is doing, where the store ends at `head`.
    pub(crate) fn status(&self, head: Position) -> ProjectionStatus {
        self.projected.status(head)
    }
}

impl fmt::Debug for ProjectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.definition.fmt(f)
    }
}
