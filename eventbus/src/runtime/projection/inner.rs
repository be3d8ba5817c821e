//! Insides of a projection's handle: the state, which events and rebuilds change, and its progress.

use std::{ops::Deref, time::Duration};

use tokio::sync::RwLock;

use super::{ProjectionError, fed_projection::ProjectionCore, guard::ProjectionGuard, progress::ProjectionProgress};
use crate::{
    domain::stream::Position,
    port::{
        Transaction,
        delivery::{Delivery, HandlerError},
    },
    runtime::definition::{Projection, ProjectionKind},
};

/// A projection: its state, and all that the feeder and the readers share.
#[derive(derive_more::Debug)]
#[debug("ProjectionHandle {{ progress: {:?}, .. }}", *core.progress().borrow())]
pub(crate) struct ProjectionInner<P> {
    /// `&mut self` methods lock it, so that an event and a reader exclude each other; `&self` methods only read it.
    state: RwLock<P>,
    factory: Option<Box<dyn Fn() -> P + Send + Sync>>,
    core: ProjectionCore,
}

impl<P: Projection> ProjectionInner<P> {
    pub(super) fn new(projection: P, factory: Option<Box<dyn Fn() -> P + Send + Sync>>) -> Self {
        Self { state: RwLock::new(projection), factory, core: ProjectionCore::new(P::definition()) }
    }

    pub(super) async fn read(&self) -> ProjectionGuard<'_, P> {
        ProjectionGuard::new(self.state.read().await, self.progress().position())
    }

    pub(super) fn new_instance(&self) -> Option<P> {
        self.factory.as_ref().map(|factory| factory())
    }

    #[cfg(feature = "testkit")]
    pub(super) fn into_projection(self) -> P {
        self.state.into_inner()
    }

    pub(super) fn is_in_use(&self) -> bool {
        self.state.try_read().is_err()
    }

    /// Handles an event from a bus: at least once, and in any order.
    pub(crate) async fn handle_from_bus(&self, delivery: &Delivery) -> Result<(), HandlerError> {
        let delivery = delivery.clone().with_state(self.app_state().await);
        self.handle_if(&delivery, |_| true).await?;
        if let Some(position) = delivery.record().position() {
            self.progress().raise_position(position);
        }
        Ok(())
    }

    /// Handles an event from a feed, if it is the next one of `generation`. Returns `false` if the position was set
    /// back.
    pub(super) async fn handle_from_feed(&self, delivery: &Delivery, generation: u64) -> Result<bool, HandlerError> {
        let Some(position) = delivery.record().position() else {
            return Ok(true);
        };
        let is_next = |progress: &ProjectionProgress| progress.generation == generation && progress.position < position;
        if self.definition().events.matches(delivery.record().event_type()) {
            self.handle_if(delivery, is_next).await?;
        }
        // `handle_if` has raised the position of state in memory: only for rows elsewhere, whose rebuild reads it, does
        // `events` count the event
        Ok(self.progress().advance(1, position, generation))
    }

    /// Runs the method for an event, if `accepts` still holds once the state is free.
    async fn handle_if(
        &self,
        delivery: &Delivery,
        accepts: impl Fn(&ProjectionProgress) -> bool,
    ) -> Result<(), HandlerError> {
        if self.definition().kind != ProjectionKind::InMemory {
            if !accepts(&self.progress().borrow()) {
                return Ok(());
            }
            self.run_method(delivery, self.state.read().await.project(delivery, None)).await?;
            self.progress().meter().count_events(1);
            return Ok(());
        }
        let mut state = self.state.write().await;
        if !accepts(&self.progress().borrow()) {
            return Ok(());
        }
        let handled = self.run_method(delivery, state.project_mut(delivery)).await;
        if let (Ok(()), Some(position)) = (&handled, delivery.record().position()) {
            // under the lock, so that a replacement of the state knows which events it includes
            self.progress().raise_position(position);
            self.progress().meter().count_events(1);
        }
        handled
    }

    /// Runs the method for one event, or for events that all go to one batch method, which writes rows in a transaction.
    pub(super) async fn write_rows(
        &self,
        deliveries: &[Delivery],
        transaction: &mut dyn Transaction,
    ) -> Result<(), HandlerError> {
        let Some(first) = deliveries.first() else { return Ok(()) };
        let (state, transaction) = (self.state.read().await, Some(transaction.as_any_mut()));
        let handled = match deliveries {
            [delivery] => state.project(delivery, transaction),
            _ => state.project_batch(deliveries, transaction),
        };
        self.run_method(first, handled).await
    }

    /// Replaces the state by `fresh`, which `catch_up` brings up to date while events wait; waits at most
    /// `guard_timeout` for guards to be dropped.
    pub(super) async fn replace_state<E: From<ProjectionError>>(
        &self,
        mut fresh: P,
        included: Position,
        guard_timeout: Option<Duration>,
        catch_up: impl AsyncFnOnce(&mut P, Position) -> Result<Position, E>,
    ) -> Result<Position, E> {
        let mut state = match guard_timeout {
            None => self.state.write().await,
            Some(timeout) => {
                let locked = self.progress().clock().timeout(timeout, self.state.write()).await;
                locked.map_err(|_| ProjectionError::Busy { name: self.name(), timeout })?
            }
        };
        // the lock keeps events out, so `target` covers every event that the old state has handled
        let target = self.progress().position().max(included);
        let position = catch_up(&mut fresh, target).await?;
        *state = fresh;
        self.progress().record_replacement(position);
        Ok(position)
    }
}

impl<P> Deref for ProjectionInner<P> {
    type Target = ProjectionCore;

    fn deref(&self) -> &ProjectionCore {
        &self.core
    }
}
