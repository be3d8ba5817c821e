//! Handlers in the store's transaction: what they write and that they handled the event commit together.
//!
//! Keep: the delivery is noted before the handler runs, in the transaction in which it runs. So whatever ends it early, an
//! error, a panic, a timeout, a crash, leaves neither rows nor note; and after an unknown outcome the note tells.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    definition::{HandlerCall, HandlerDefinition},
    subscription::Surroundings,
};
use crate::{
    domain::{
        clock::SharedClock,
        error::{BoxError, Chain},
        metadata::EventId,
        name::Name,
    },
    port::{
        Delivery, HandlerError, Outage, RetryPolicy, Transaction, Transactions,
        activity::{not_counted, waits_for_server},
        soon,
    },
};

/// When a store that cannot begin a transaction is asked again.
const STORE_AWAY: RetryPolicy = RetryPolicy {
    retry_for: Duration::MAX,
    max_retries: None,
    first_delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(5),
};

/// Lets a handler take effect once for each event.
pub(crate) struct Effect {
    transactions: Arc<dyn Transactions>,
    /// What the store knows the handler by.
    name: Name,
    /// Cancelled when nothing is to begin any more.
    stop: CancellationToken,
    clock: SharedClock,
}

impl Effect {
    /// `None` for a handler that takes no transaction, or where there are none to take.
    pub(crate) fn of(handler: &HandlerDefinition, group: &Name, surroundings: &Surroundings) -> Option<Self> {
        let takes_part = !handler.requirements().transactions().is_empty();
        let transactions = Arc::clone(surroundings.transactions.as_ref().filter(|_| takes_part)?);
        Some(Self {
            transactions,
            name: group.joined("/", handler.name),
            stop: surroundings.stop.clone(),
            clock: surroundings.clock.clone(),
        })
    }

    /// Runs the handler in a transaction of its own, unless that was committed before.
    pub(crate) async fn once(&self, delivery: &Delivery, call: HandlerCall) -> Result<(), HandlerError> {
        let event_id = delivery.metadata().event_id();
        let begun = not_counted(soon(&self.stop, self.begin(event_id))).await.ok_or_else(HandlerError::not_begun)?;
        let Some(mut transaction) = begun else {
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
        committed.map_err(|error| if is_late { error } else { judged(error, &*self.transactions) })
    }

    /// A transaction in which the delivery is noted; `None` if it was handled before.
    ///
    /// A store that is away is waited for, until the app stops: it is no fault of the event, and uses up no attempt.
    async fn begin(&self, event_id: EventId) -> Option<Box<dyn Transaction>> {
        let mut failures = 0;
        loop {
            match self.try_to_begin(event_id).await {
                Ok(begun) => return begun,
                Err(error) => {
                    failures += 1;
                    let fault = self.transactions.server_fault(&*error);
                    let fault = fault.map_or_else(|| "no transaction can begin".into(), |fault| fault.to_string());
                    let is_news = waits_for_server(fault, &self.clock);
                    self.report(&error, is_news);
                    self.clock.sleep(STORE_AWAY.jittered(failures)).await;
                }
            }
        }
    }

    fn report(&self, error: &BoxError, is_news: bool) {
        let error = Chain(&**error);
        if is_news {
            tracing::warn!(handler = %self.name, %error, "store cannot begin a transaction, trying again");
        } else {
            tracing::debug!(handler = %self.name, %error, "store still cannot begin a transaction");
        }
    }

    async fn try_to_begin(&self, event_id: EventId) -> Result<Option<Box<dyn Transaction>>, BoxError> {
        let mut transaction = self.transactions.begin().await?;
        Ok(transaction.is_first(&self.name, event_id).await?.then_some(transaction))
    }
}

/// The error, as a fault of the server if the store's driver finds one in it, whatever the handler made of it.
pub(crate) fn judged(error: HandlerError, transactions: &dyn Transactions) -> HandlerError {
    match transactions.server_fault(error.get_ref()) {
        Some(fault) => error.with_server_fault(fault),
        None => error,
    }
}

/// Forgets deliveries that took effect longer ago than `retention`, about once an hour until cancelled.
pub(crate) async fn forget(
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
