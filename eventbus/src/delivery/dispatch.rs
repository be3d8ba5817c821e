//! Runs the handlers of a group for one delivery; shared by all buses.
//!
//! Invariant: every handler of the group that has not succeeded runs, also after an earlier one failed; a panic, or a
//! run past its time limit, is a failure of that delivery, never of the consumer.

use std::sync::Arc;

use super::active_subscriber::{ActiveSubscriber, Limits, SpanFn};
use crate::{
    domain::{clock::SharedClock, name::Name},
    port::{
        attempts::{DeliveryAttempts, Failure},
        delivery::Delivery,
        stats::BusCounters,
    },
};

/// The outcome of a delivery.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Every handler that wants the event and had not given up has succeeded, now or before.
    Handled {
        /// The handlers that succeeded now.
        succeeded: Vec<Name>,
    },
    /// No handler of the group wants the event.
    Skipped,
    /// The group has no handlers any more: the delivery stays pending, as it is undecided.
    Unattended,
    /// Some handlers failed.
    Failed {
        /// The handlers that failed now.
        failures: Vec<Failure>,
        /// The handlers that succeeded now.
        succeeded: Vec<Name>,
    },
}

/// Logs that a group skips a type from now on.
pub fn log_skipped_type(group: &Name, event_type: &str) {
    tracing::info!(%group, event_type, "the group has no handler for this event type: it skips the events");
}

impl Outcome {
    /// Counts the outcome of a delivery. The bus itself counts an event that no handler here wants: a different
    /// consumer of the group may want it.
    pub fn count_in(&self, counters: &BusCounters) {
        match self {
            Self::Handled { .. } => counters.events_processed_success(1),
            Self::Failed { failures, .. } => {
                counters.events_processed_failed(1);
                counters.handler_errors(failures.len() as u64);
            }
            Self::Skipped | Self::Unattended => {}
        }
    }
}

/// Runs every subscriber that wants the event and has neither succeeded nor given up before: first those of its type,
/// then those of all types, in the order they subscribed; each in a `span` of its own.
pub async fn dispatch(
    subscribers: &[Arc<ActiveSubscriber>],
    delivery: &Delivery,
    attempts: &DeliveryAttempts,
    limits: &Limits,
    clock: &SharedClock,
    span: &SpanFn,
) -> Outcome {
    if subscribers.is_empty() {
        return Outcome::Unattended;
    }
    let wanted = || subscribers.iter().filter(|s| s.events().matches(delivery.record().event_type()));
    let (typed, wildcard) =
        (|s: &&Arc<ActiveSubscriber>| !s.is_wildcard(), |s: &&Arc<ActiveSubscriber>| s.is_wildcard());
    let mut is_wanted = false;
    let (mut failures, mut succeeded) = (Vec::new(), Vec::new());
    for subscriber in wanted().filter(typed).chain(wanted().filter(wildcard)) {
        is_wanted = true;
        if attempts.is_finished_for(subscriber.name()) {
            continue;
        }
        match subscriber.run(delivery, limits, clock, span).await {
            Ok(()) => succeeded.push(subscriber.name().clone()),
            Err(error) => {
                let (handler, retries) = (subscriber.name().clone(), subscriber.options().retries);
                failures.push(Failure { handler, retries, error });
            }
        }
    }
    // only other consumers of the group have a failed handler: they retry it, unless it has given up
    match (is_wanted || attempts.has_given_up(), failures.is_empty()) {
        (false, _) => Outcome::Skipped,
        (true, true) => Outcome::Handled { succeeded },
        (true, false) => Outcome::Failed { failures, succeeded },
    }
}
