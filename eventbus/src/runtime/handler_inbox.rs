//! The inbox of handlers that take the store's transaction: their rows and the note of the delivery commit together.
//!
//! Invariant: the inbox notes the delivery before the handler runs, in the handler's transaction. So an error, a panic,
//! a timeout or a crash leaves neither rows nor note; after an unknown outcome the note shows whether it took effect.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    definition::{HandlerCall, HandlerDefinition},
    handler_context::HandlerContext,
};
use crate::{
    delivery::{
        activity::{note_server_fault, without_timeout},
        within_grace_period,
    },
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorChain},
        metadata::Metadata,
        name::Name,
    },
    port::{
        Transaction, Transactions,
        backoff::{Backoff, BackoffTimer},
        delivery::{Delivery, HandlerError},
    },
    support::Outage,
};

/// Delays between attempts to begin a transaction while the store is away.
const BEGIN_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Lets one handler take effect once for each event.
pub(crate) struct HandlerInbox {
    transactions: Arc<dyn Transactions>,
    /// The key of the handler's notes in the store: group and handler name.
    name: Name,
    /// Cancelled when the app stops: no transaction begins after the grace period.
    stop: CancellationToken,
    clock: SharedClock,
}

impl HandlerInbox {
    /// Creates the inbox of a handler; `None` if it takes no transaction, or if no store of the context lends one.
    pub(crate) fn for_handler(handler: &HandlerDefinition, group: &Name, context: &HandlerContext) -> Option<Self> {
        let takes_part = !handler.requirements().transactions().is_empty();
        let transactions = Arc::clone(context.transactions.as_ref().filter(|_| takes_part)?);
        Some(Self {
            transactions,
            name: group.joined("/", handler.name),
            stop: context.stop.clone(),
            clock: context.clock.clone(),
        })
    }

    /// Runs the handler in its own transaction, unless an earlier delivery of the event has committed.
    pub(crate) async fn run_once(&self, delivery: &Delivery, call: HandlerCall) -> Result<(), HandlerError> {
        let event_id = delivery.metadata().event_id();
        let begin_outcome =
            without_timeout(within_grace_period(&self.stop, self.begin_transaction(delivery.metadata())))
                .await
                .ok_or_else(HandlerError::not_begun)?;
        let Some(mut transaction) = begin_outcome else {
            tracing::debug!(handler = %self.name, %event_id, "delivery took effect before, skipped");
            return Ok(());
        };
        let handled = call(delivery, Some(transaction.as_any_mut())).await;
        let is_late = transaction.is_late();
        let committed = match handled {
            Ok(()) => transaction.commit().await.map_err(HandlerError::from),
            Err(error) => {
                drop(transaction);
                Err(error)
            }
        };
        // the store ended a late transaction for its age: no fault of the server
        committed.map_err(|error| if is_late { error } else { classify_error(error, &*self.transactions) })
    }

    /// Begins a transaction and notes the delivery in it; `None` if the handler took effect for the event before.
    ///
    /// Retries while the store is away, until the app stops: an outage is no fault of the event and uses up no attempt.
    async fn begin_transaction(&self, event: &Metadata) -> Option<Box<dyn Transaction>> {
        let mut backoff = BackoffTimer::new(BEGIN_BACKOFF);
        loop {
            match self.try_begin_transaction(event).await {
                Ok(begin_outcome) => return begin_outcome,
                Err(error) => {
                    let fault = self.transactions.server_fault(&*error);
                    let fault = fault.map_or_else(|| "no transaction can begin".into(), |fault| fault.to_string());
                    let is_news = note_server_fault(fault, &self.clock);
                    self.log_failure(&error, is_news);
                    self.clock.sleep(backoff.next_jittered()).await;
                }
            }
        }
    }

    fn log_failure(&self, error: &BoxError, is_news: bool) {
        let error = ErrorChain(&**error);
        if is_news {
            tracing::warn!(handler = %self.name, %error, "store cannot begin a transaction, trying again");
        } else {
            tracing::debug!(handler = %self.name, %error, "store still cannot begin a transaction");
        }
    }

    async fn try_begin_transaction(&self, event: &Metadata) -> Result<Option<Box<dyn Transaction>>, BoxError> {
        let mut transaction = self.transactions.begin().await?;
        Ok(transaction.is_first(&self.name, event.stream(), event.event_id()).await?.then_some(transaction))
    }
}

/// Turns the error into a server fault if the store's driver finds one in it, also where the handler wrapped it.
pub(crate) fn classify_error(error: HandlerError, transactions: &dyn Transactions) -> HandlerError {
    match transactions.server_fault(error.get_ref()) {
        Some(fault) => error.with_server_fault(fault),
        None => error,
    }
}

/// Deletes notes of deliveries older than `retention`, about once an hour, until cancelled.
pub(crate) async fn purge_inbox(
    transactions: Arc<dyn Transactions>,
    retention: Duration,
    clock: SharedClock,
    cancel: CancellationToken,
) {
    const HOUR: Duration = Duration::from_secs(3_600);
    let mut outage = Outage::new(clock.clone());
    loop {
        // jitter: processes that started together do not all purge at once
        let pause = HOUR.mul_f64(0.75 + fastrand::f64() / 2.0);
        if cancel.run_until_cancelled(clock.sleep(pause)).await.is_none() {
            return;
        }
        match cancel.run_until_cancelled(transactions.forget_deliveries(retention)).await {
            Some(Ok(forgotten)) => {
                tracing::debug!(forgotten, ?retention, "forgot deliveries that took effect");
                if let Some(lasted) = outage.ends() {
                    tracing::info!(?lasted, "deliveries that took effect are forgotten again");
                }
            }
            Some(Err(error)) if outage.begins() => {
                tracing::warn!(%error, "cannot forget deliveries that took effect, trying again later");
            }
            Some(Err(_)) => {}
            None => return,
        }
    }
}
