//! Type-erased projections, as an app holds them.

use std::{any::Any, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    context::RunnerContext,
    fed_projection::FedProjection,
    handle::ProjectionHandle,
    inner::ProjectionInner,
    memory_rebuild::replay_in_memory,
    rebuild::{RebuildFuture, rebuild_in_app},
    rebuild_progress::{ProgressCallback, Rebuilt},
    runner::ProjectionRunner,
};
use crate::{
    port::{
        BoxFuture, EventStore, Transaction,
        delivery::{Delivery, HandlerError},
    },
    runtime::definition::{Projection, ProjectionDefinition},
};

/// A type-erased projection, as an app holds it.
#[doc(hidden)]
#[derive(Clone, derive_more::Debug)]
#[debug("{:?}", self.definition())]
pub struct AnyProjection {
    fed: Arc<dyn FedProjection>,
    /// Its [`ProjectionHandle`].
    handle: Arc<dyn Any + Send + Sync>,
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

    fn is_in_use(&self) -> bool {
        self.is_in_use()
    }
}

impl AnyProjection {
    /// Returns the default instance of `P`, if it has one.
    #[must_use]
    pub fn with_default<P: Projection>(factory: Option<fn() -> P>) -> Option<Self> {
        factory.map(|make| Self::new(ProjectionHandle::with_factory(make)))
    }

    pub(crate) fn new<P: Projection>(handle: ProjectionHandle<P>) -> Self {
        Self { fed: Arc::<ProjectionInner<P>>::clone(handle.inner()), handle: Arc::new(handle) }
    }

    pub(crate) fn definition(&self) -> &ProjectionDefinition {
        &self.fed.definition
    }

    /// Returns the projection, if it is a `P`.
    pub(crate) fn downcast<P: Projection>(&self) -> Option<&ProjectionHandle<P>> {
        self.handle.downcast_ref()
    }

    pub(crate) fn fed(&self) -> &dyn FedProjection {
        &*self.fed
    }

    /// Feeds it until cancelled.
    pub(crate) fn run(&self, context: RunnerContext, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        self.fed.progress().set_clock(context.clock.clone());
        ProjectionRunner::new(Arc::clone(&self.fed), context).run(cancel)
    }

    /// Rebuilds it while an app feeds it; waits at most `guard_timeout` for guards to be dropped.
    pub(crate) fn rebuild<'a>(
        &'a self,
        context: &'a RunnerContext,
        stop: &'a CancellationToken,
        report: ProgressCallback<'a>,
        guard_timeout: Duration,
    ) -> RebuildFuture<'a, Rebuilt> {
        rebuild_in_app(&*self.fed, context, stop, report, guard_timeout)
    }
}
