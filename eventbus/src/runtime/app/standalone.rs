//! Commands of operators on the parts of an app that does not start: rebuilds, and replays to a handler.
//!
//! Invariant: no handler consumes and no event is published, so it may run beside the app.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    parts::Parts,
    replayed::{ReplayError, Replayed},
    set_up::set_up_tables,
};
use crate::{
    delivery::{ActiveSubscriber, Limits, Outcome, dispatch, handler_span},
    domain::{error::Result, name::Name, stream::Position},
    port::{EventBus, FeedFilter, attempts::DeliveryAttempts, delivery::Delivery},
    runtime::{
        definition::{HandlerDefinition, ProjectionDefinition, ProjectionKind},
        handler_context::HandlerContext,
        held_lease::new_owner,
        projection::{AnyProjection, RebuildProgress, Rebuilt, RunnerContext},
        start::StartError,
        subscription::checked_subscriber,
    },
};

/// The time in which the store must begin the transaction of a handler that a replay runs: an operator waits for it.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// An app whose parts are checked, and that does not start: for commands of operators. [`AppBuilder::standalone`] makes it.
///
/// [`AppBuilder::standalone`]: super::AppBuilder::standalone
#[derive(derive_more::Debug)]
#[must_use]
#[debug("StandaloneApp({:?}, {:?})", self.parts.plan.projection_names(), self.parts.plan.handler_names())]
pub struct StandaloneApp {
    pub(super) parts: Parts,
    pub(super) lease: Duration,
    pub(super) guard_timeout: Duration,
}

impl StandaloneApp {
    /// Returns the handlers that the app runs, by name.
    pub fn handlers(&self) -> &[HandlerDefinition] {
        &self.parts.plan.handlers
    }

    /// Returns the projections that the app runs, by name.
    pub fn projections(&self) -> impl Iterator<Item = &ProjectionDefinition> {
        self.parts.plan.projections.iter().map(AnyProjection::definition)
    }

    /// Returns the group of a handler of the app.
    #[must_use]
    pub fn group_of(&self, handler: &HandlerDefinition) -> Name {
        self.parts.plan.groups.of(handler)
    }

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn EventBus> {
        &self.parts.bus
    }

    /// Checks that [`rebuild`](Self::rebuild) knows the projection.
    ///
    /// # Errors
    /// [`StartError`] with the projections that the app has, if none has this name.
    pub fn check_projection(&self, name: &str) -> Result<(), StartError> {
        self.parts.plan.projection(name).map(|_| ())
    }

    /// Checks that [`replay`](Self::replay) knows the handler.
    ///
    /// # Errors
    /// [`StartError`] with the handlers that the app has, if none has this name.
    pub fn check_handler(&self, name: &str) -> Result<(), StartError> {
        self.parts.plan.handler(name).map(|_| ())
    }

    /// Rebuilds one projection, as [`AppBuilder::rebuild`](super::AppBuilder::rebuild) does.
    ///
    /// # Errors
    /// [`StartError`] if the app has no such projection or its `set_up` fails, otherwise the errors of
    /// [`App::rebuild`](super::App::rebuild).
    pub async fn rebuild(self, name: &str, report: impl FnMut(RebuildProgress) + Send) -> Result<Rebuilt> {
        let Parts { store, clock, state, plan, .. } = self.parts;
        let projection = plan.projection(name)?;
        set_up_tables(&*store, std::slice::from_ref(projection)).await.map_err(StartError::from)?;
        let context = RunnerContext::new(store, clock, state, new_owner(), self.lease);
        let stop = CancellationToken::new();
        let _stop_if_dropped = stop.clone().drop_guard();
        // the rebuild of such rows is a run of the projection from the first event on
        let runner = (projection.definition().kind == ProjectionKind::AtLeastOnce)
            .then(|| tokio::spawn(projection.run(context.clone(), stop.clone())));
        let rebuilt = projection.rebuild(&context, &stop, Box::new(report), self.guard_timeout).await;
        stop.cancel();
        if let Some(runner) = runner
            && let Err(error) = runner.await
        {
            tracing::error!(projection = name, %error, "the projection did not save where it ended");
        }
        Ok(rebuilt?)
    }

    /// Runs one handler on stored events, as [`AppBuilder::replay`](super::AppBuilder::replay) does.
    ///
    /// # Errors
    /// [`StartError`] if the app has no such handler; [`ReplayError`] with the position of the event that failed, also if
    /// the store began no transaction for the handler within 30 seconds, or if the store could not be read.
    pub async fn replay(
        self,
        name: &str,
        after: Position,
        through: Option<Position>,
        mut report: impl FnMut(Replayed) + Send,
    ) -> Result<Replayed> {
        let Parts { store, clock, state, plan, .. } = self.parts;
        let definition = *plan.handler(name)?;
        let group = plan.groups.of(&definition);
        let context = HandlerContext {
            clock: clock.clone(),
            transactions: store.transactions(),
            begin_within: Some(BEGIN_WITHIN),
            ..HandlerContext::from(&state)
        };
        let subscriber = checked_subscriber(definition, &context)?;
        let subscribers = [Arc::new(ActiveSubscriber::new(group.clone(), subscriber))];
        let head = store.head().await.map_err(ReplayError::Store)?;
        let through = through.unwrap_or(head).min(head);
        let mut replayed = Replayed { events: 0, skipped: 0, position: after, through };
        let filter = FeedFilter::from(definition.events);
        let mut feed = store.read_feed(after, through, &filter);
        while let Some(record) = feed.try_next().await.map_err(ReplayError::Store)? {
            let (position, event_id) = (record.position().unwrap_or(replayed.position), record.metadata().event_id());
            let delivery = Delivery::new(record, group.clone());
            let (attempts, limits) = (DeliveryAttempts::default(), Limits::default());
            let outcome = dispatch(&subscribers, &delivery, &attempts, &limits, &clock, &handler_span).await;
            if let Outcome::Failed { failures, .. } = outcome {
                let reason = failures.first().map(|failure| failure.error.to_string());
                let (handler, reason) = (definition.name, reason.unwrap_or_default());
                let after = replayed.position;
                return Err(ReplayError::Failed { handler, position, event_id, after, reason }.into());
            }
            let (done, skipped) = (replayed.events + replayed.skipped + 1, context.skipped.load(Ordering::Relaxed));
            replayed = Replayed { events: done.saturating_sub(skipped), skipped, position, through };
            report(replayed);
        }
        replayed.position = through.max(after);
        Ok(replayed)
    }
}
