//! A projection whose type is forgotten, as the app keeps it.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    ProjectionError,
    projected::Projected,
    runner::{self, FeedProjection},
};
use crate::{
    domain::stream::Position,
    port::{BoxFuture, EventStore, StateMap},
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
    fn run(&self, store: Arc<dyn EventStore>, state: StateMap, cancel: CancellationToken) -> BoxFuture<'static, ()>;
    fn reached(&self, position: Position, timeout: Duration) -> BoxFuture<'static, Result<(), ProjectionError>>;
}

impl<P: Projection> Erased for Projected<P> {
    fn run(&self, store: Arc<dyn EventStore>, state: StateMap, cancel: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(runner::run(FeedProjection { projected: self.clone(), store, state }, cancel))
    }

    fn reached(&self, position: Position, timeout: Duration) -> BoxFuture<'static, Result<(), ProjectionError>> {
        Box::pin(Self::reached(self, position, timeout))
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

    pub(crate) fn run(
        &self,
        store: Arc<dyn EventStore>,
        state: StateMap,
        cancel: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        self.projected.run(store, state, cancel)
    }

    pub(crate) fn reached(
        &self,
        position: Position,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), ProjectionError>> {
        self.projected.reached(position, timeout)
    }
}

impl fmt::Debug for ProjectionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.definition.fmt(f)
    }
}
