//! Type-erased projections, as an app holds them.

use std::{any::Any, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError, ProjectionStatus,
    context::RunnerContext,
    fed_projection::FedProjection,
    handle::ProjectionHandle,
    inner::ProjectionInner,
    memory_rebuild::replay_in_memory,
    meter::ProjectionMeter,
    rebuild::{RebuildFuture, rebuild_in_app},
    rebuild_progress::{ProgressCallback, Rebuilt},
    runner::ProjectionRunner,
    shadow_rebuild::find_rebuild_owner,
};
use crate::{
    delivery::activity::Activity,
    domain::stream::Position,
    port::{
        BoxFuture, EventStore, ReadError, Transaction,
        delivery::{Delivery, HandlerError},
        health::Health,
    },
    runtime::definition::{Projection, ProjectionDefinition},
};

/// A type-erased projection, as an app holds it.
#[doc(hidden)]
#[derive(Clone, derive_more::Debug)]
#[debug("{definition:?}")]
pub struct AnyProjection {
    definition: ProjectionDefinition,
    handle: Arc<dyn ErasedProjection>,
}

/// What an app does with a projection of any type.
pub(crate) trait ErasedProjection: Any + Send + Sync {
    fn run(&self, context: RunnerContext, cancel: CancellationToken) -> BoxFuture<'static, ()>;
    fn wait_for_position(
        &self,
        position: Position,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), ProjectionError>>;
    /// Returns its status for a store that ends at `head`.
    fn status(&self, head: Position) -> ProjectionStatus;
    /// Loads its status for a store that ends at `head`, with the process that rebuilds it.
    fn load_status<'a>(
        &'a self,
        store: &'a dyn EventStore,
        head: Position,
    ) -> BoxFuture<'a, Result<ProjectionStatus, ReadError>>;
    /// Rebuilds it while an app feeds it; waits at most `guard_timeout` for guards to be dropped.
    fn rebuild<'a>(
        &'a self,
        context: &'a RunnerContext,
        stop: &'a CancellationToken,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt>;
    /// Notes the head of the feed at the start of the app: state in memory has caught up once it has reached it.
    fn note_head(&self, head: Position);
    /// Adds to a report its run of a method that takes long, and that it waits for its store or has yet to catch up.
    fn add_to_health(&self, health: &mut Health);
    /// Returns the runs of its methods at the moment.
    fn activity(&self) -> Arc<Activity>;
    /// Returns its counters.
    fn meter(&self) -> Arc<ProjectionMeter>;
}

impl<P: Projection> ErasedProjection for ProjectionHandle<P> {
    fn run(&self, context: RunnerContext, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        self.inner().progress().set_clock(context.clock.clone());
        ProjectionRunner::new(Arc::<ProjectionInner<P>>::clone(self.inner()), context).run(cancel)
    }

    fn wait_for_position(
        &self,
        position: Position,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), ProjectionError>> {
        Box::pin(self.inner().wait_for_position(Some(position), timeout))
    }

    fn status(&self, head: Position) -> ProjectionStatus {
        ProjectionStatus::new(
            &P::definition(),
            &self.inner().progress().borrow(),
            head,
            self.inner().count_skipped(head),
        )
    }

    fn load_status<'a>(
        &'a self,
        store: &'a dyn EventStore,
        head: Position,
    ) -> BoxFuture<'a, Result<ProjectionStatus, ReadError>> {
        Box::pin(async move {
            let rebuilding = match P::definition().tables {
                [] => None,
                _ => find_rebuild_owner(store, P::definition().name).await?,
            };
            Ok(ProjectionStatus { rebuilding, ..self.status(head) })
        })
    }

    fn rebuild<'a>(
        &'a self,
        context: &'a RunnerContext,
        stop: &'a CancellationToken,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt> {
        rebuild_in_app(self.fed(), context, stop, report, guard_timeout)
    }

    fn note_head(&self, head: Position) {
        self.inner().progress().note_head(head);
    }

    fn add_to_health(&self, health: &mut Health) {
        let definition = P::definition();
        let progress = self.inner().progress().borrow();
        health.waiting.extend(progress.waiting(definition.name));
        health.catching_up.extend(progress.catching_up(&definition));
        drop(progress);
        health.in_flight.extend(self.inner().activity().long_run());
    }

    fn activity(&self) -> Arc<Activity> {
        Arc::clone(self.inner().activity())
    }

    fn meter(&self) -> Arc<ProjectionMeter> {
        Arc::clone(self.inner().progress().meter())
    }
}

impl<P: Projection> FedProjection for ProjectionInner<P> {
    fn handle_from_feed<'a>(
        &'a self,
        delivery: &'a Delivery,
        generation: u64,
    ) -> BoxFuture<'a, Result<bool, HandlerError>> {
        Box::pin(self.handle_from_feed(delivery, generation))
    }

    fn write_rows<'a>(
        &'a self,
        deliveries: &'a [Delivery],
        transaction: &'a mut dyn Transaction,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(self.write_rows(deliveries, transaction))
    }

    fn rebuild_in_memory<'a>(
        &'a self,
        store: &'a dyn EventStore,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt> {
        Box::pin(replay_in_memory(self, store, report, Some(guard_timeout)))
    }
}

impl AnyProjection {
    /// Returns the default instance of `P`, if it has one.
    #[must_use]
    pub fn with_default<P: Projection>(factory: Option<fn() -> P>) -> Option<Self> {
        factory.map(|make| Self::new(ProjectionHandle::with_factory(make)))
    }

    pub(crate) fn new<P: Projection>(handle: ProjectionHandle<P>) -> Self {
        Self { definition: P::definition(), handle: Arc::new(handle) }
    }

    pub(crate) const fn definition(&self) -> &ProjectionDefinition {
        &self.definition
    }

    /// Returns the projection, if it is a `P`.
    pub(crate) fn downcast<P: Projection>(&self) -> Option<&ProjectionHandle<P>> {
        let any: &dyn Any = &*self.handle;
        any.downcast_ref()
    }

    pub(crate) fn erased(&self) -> &dyn ErasedProjection {
        &*self.handle
    }
}
