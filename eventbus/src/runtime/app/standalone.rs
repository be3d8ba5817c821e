//! What an operator's command does with the parts of an app that it does not start: rebuilds, and replays to a handler.
//!
//! Invariant: no handler consumes and no event is published, so it may run beside the app.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    parts::Parts,
    replayed::{ReplayError, Replayed},
    set_up::set_up_tables,
};
use crate::{
    delivery::{ActiveSubscriber, Limits, Outcome, dispatch, handler_span},
    domain::{error::Result, stream::Position},
    port::{FeedFilter, attempts::DeliveryAttempts, delivery::Delivery},
    runtime::{
        definition::ProjectionKind,
        handler_context::HandlerContext,
        held_lease::new_owner,
        projection::{AnyProjection, ProgressCallback, Rebuilt, RunnerContext},
        start::{StartError, StartMistake},
        subscription::{checked_subscriber, group_of},
    },
};

/// The checked parts of an app that is not started.
pub(super) struct Standalone {
    pub(super) parts: Parts,
    pub(super) projection_lease: Duration,
}

impl Standalone {
    /// Rebuilds the projection of this name.
    pub(super) async fn rebuild(
        self,
        name: &str,
        report: ProgressCallback<'_>,
        guard_timeout: Duration,
    ) -> Result<Rebuilt> {
        let Parts { store, clock, state, plan, .. } = self.parts;
        let known = || plan.projections.iter().map(|projection| projection.definition().name);
        let wanted = |projection: &&AnyProjection| projection.definition().name == name;
        let projection =
            plan.projections.iter().find(wanted).ok_or_else(|| unknown("projection", name, known().collect()))?;
        set_up_tables(&*store, std::slice::from_ref(projection)).await.map_err(StartError::from)?;
        let context = RunnerContext::new(store, clock, state, new_owner(), self.projection_lease);
        let stop = CancellationToken::new();
        let _stop_if_dropped = stop.clone().drop_guard();
        // the rebuild of such rows is a run of the projection from the first event on
        let runner = (projection.definition().kind == ProjectionKind::AtLeastOnce)
            .then(|| tokio::spawn(projection.erased().run(context.clone(), stop.clone())));
        let rebuilt = projection.erased().rebuild(&context, &stop, report, guard_timeout).await;
        stop.cancel();
        if let Some(runner) = runner
            && let Err(error) = runner.await
        {
            tracing::error!(projection = name, %error, "the projection did not save where it ended");
        }
        Ok(rebuilt?)
    }

    /// Runs the handler of this name on stored events.
    pub(super) async fn replay(
        self,
        name: &str,
        after: Position,
        through: Option<Position>,
        mut report: impl FnMut(Replayed) + Send,
    ) -> Result<Replayed> {
        let Parts { store, clock, state, plan, .. } = self.parts;
        let known = || plan.handlers.iter().map(|handler| handler.name).collect();
        let wanted = plan.handlers.iter().find(|handler| handler.name == name);
        let definition = *wanted.ok_or_else(|| unknown("handler", name, known()))?;
        let group = group_of(&definition, &plan.default_group);
        let context =
            HandlerContext { clock: clock.clone(), transactions: store.transactions(), ..HandlerContext::from(&state) };
        let subscriber = checked_subscriber(definition, &group, &context)?;
        let subscribers = [Arc::new(ActiveSubscriber::new(group.clone(), subscriber))];
        let head = store.head().await.map_err(ReplayError::Store)?;
        let through = through.unwrap_or(head).min(head);
        let mut replayed = Replayed { events: 0, position: after, through };
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
            replayed = Replayed { events: replayed.events + 1, position, through };
            report(replayed);
        }
        replayed.position = through.max(after);
        Ok(replayed)
    }
}

fn unknown(what: &'static str, name: &str, known: Vec<&'static str>) -> StartError {
    StartMistake::UnknownName { what, name: name.to_owned(), known }.into()
}
