//! Handlers in the store's transaction: what they write and that they handled the event commit together.
//!
//! Keep: the delivery is noted before the handler runs, in the transaction in which it runs. So whatever ends it early, an
//! error, a panic, a timeout, a crash, leaves neither rows nor note; and after an unknown outcome the note tells.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    definition::{HandlerCall, HandlerDefinition},
    subscription::HandlerEnvironment,
};
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, ErrorChain},
        metadata::EventId,
        name::Name,
    },
    port::{
        Delivery, HandlerError, Outage, RetryPolicy, Transaction, Transactions,
        activity::{note_server_fault, without_timeout},
        within_grace_period,
    },
};

/// When a store that cannot begin a transaction is asked again.
const BEGIN_RETRY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(5),
};

/// Lets a handler take effect once for each event.
pub(crate) struct HandlerInbox {
    transactions: Arc<dyn Transactions>,
    /// What the store knows the handler by.
    name: Name,
    /// Cancelled when nothing is to begin any more.
    stop: CancellationToken,
    clock: SharedClock,
}

impl HandlerInbox {
    /// `None` for a handler that takes no transaction, or where there are none to take.
    pub(crate) fn for_handler(
        handler: &HandlerDefinition,
        group: &Name,
        environment: &HandlerEnvironment,
    ) -> Option<Self> {
        let takes_part = !handler.requirements().transactions().is_empty();
        let transactions = Arc::clone(environment.transactions.as_ref().filter(|_| takes_part)?);
        Some(Self {
            transactions,
            name: group.joined("/", handler.name),
            stop: environment.stop.clone(),
            clock: environment.clock.clone(),
        })
    }

    /// Runs the handler in a transaction of its own, unless that was committed before.
    pub(crate) async fn run_once(&self, delivery: &Delivery, call: HandlerCall) -> Result<(), HandlerError> {
        let event_id = delivery.metadata().event_id();
        let begin_outcome = without_timeout(within_grace_period(&self.stop, self.begin_transaction(event_id)))
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
        committed.map_err(|error| if is_late { error } else { classify_error(error, &*self.transactions) })
    }

    /// A transaction in which the delivery is noted; `None` if it was handled before.
    ///
    /// A store that is away is waited for, until the app stops: it is no fault of the event, and uses up no attempt.
    async fn begin_transaction(&self, event_id: EventId) -> Option<Box<dyn Transaction>> {
        let mut failures = 0;
        loop {
            match self.try_begin_transaction(event_id).await {
                Ok(begin_outcome) => return begin_outcome,
                Err(error) => {
                    failures += 1;
                    let fault = self.transactions.server_fault(&*error);
                    let fault = fault.map_or_else(|| "no transaction can begin".into(), |fault| fault.to_string());
                    let is_news = note_server_fault(fault, &self.clock);
                    self.log_failure(&error, is_news);
                    self.clock.sleep(BEGIN_RETRY.jittered(failures)).await;
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

    async fn try_begin_transaction(&self, event_id: EventId) -> Result<Option<Box<dyn Transaction>>, BoxError> {
        let mut transaction = self.transactions.begin().await?;
        Ok(transaction.is_first(&self.name, event_id).await?.then_some(transaction))
    }
}

/// The error, as a fault of the server if the store's driver finds one in it, whatever the handler made of it.
pub(crate) fn classify_error(error: HandlerError, transactions: &dyn Transactions) -> HandlerError {
    match transactions.server_fault(error.get_ref()) {
        Some(fault) => error.with_server_fault(fault),
        None => error,
    }
}

/// Forgets deliveries that took effect longer ago than `retention`, about once an hour until cancelled.
pub(crate) async fn purge_inbox(
    transactions: Arc<dyn Transactions>,
    retention: Duration,
    clock: SharedClock,
    cancel: CancellationToken,
) {
    const HOUR: Duration = Duration::from_secs(3_600);
    let mut outage = Outage::new(clock.clone());
    loop {
        // apps that were started together do not come together
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
