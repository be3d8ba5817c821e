//! One run of the handlers for an entry.

use tokio::sync::Notify;

use super::{
    entries::InFlight,
    group_context::{GroupContext, GroupHandlers},
    state::Job,
};
use crate::{delivery::dispatch, port::delivery::Delivery};

/// Runs the handlers for an entry, until they end or the entry is released. Returns `true` if it woke a task of the
/// bus.
pub(super) async fn handle(
    in_flight: &InFlight,
    job: Job,
    context: &GroupContext,
    handlers: &GroupHandlers,
    taken_over: &Notify,
) -> bool {
    let attempt = job.attempts.attempts.saturating_add(1);
    let delivery = Delivery::new(job.record, context.group.clone()).with_attempt(attempt).with_message_id(job.id);
    context.counters.events_consumed(1);
    let handling =
        dispatch(&handlers.current, &delivery, &job.attempts, &context.limits, in_flight.clock(), &*context.span);
    let outcome = tokio::select! {
        biased; // a run that has ended counts, also if its entry is released at the same moment
        outcome = handling => outcome,
        () = in_flight.until_taken_over(taken_over, job.number) => return false,
    };
    outcome.count_in(&context.counters);
    in_flight.record_outcome(job.number, outcome, context)
}
