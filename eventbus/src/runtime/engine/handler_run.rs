//! One run of a handler, and what follows from its result.

use time::OffsetDateTime;

use super::{
    handler_queue::HandlerQueue,
    shard::{End, Taken},
};
use crate::{
    delivery::handler_span,
    domain::{clock::SharedClock, record::RecordedEvent},
    port::{
        attempts::{DeliveryAttempts, Failure},
        delivery::{Delivery, HandlerError, HandlerErrorKind},
    },
};

/// Runs a handler with a taken event, and returns how the run ended.
pub(super) async fn run_handler(queue: &HandlerQueue, taken: &Taken, event: RecordedEvent, clock: &SharedClock) -> End {
    let attempt = taken.attempts.attempts.saturating_add(1);
    let delivery = Delivery::new(event, queue.spec.group.clone()).with_attempt(attempt);
    match queue.subscriber.run(&delivery, &queue.spec.limits, clock, &handler_span).await {
        Ok(()) => End::Done,
        Err(error) => end_of_failure(queue, taken.attempts.clone(), error, taken.is_counted_alone, clock),
    }
}

fn end_of_failure(
    queue: &HandlerQueue,
    mut attempts: DeliveryAttempts,
    error: HandlerError,
    is_counted_alone: bool,
    clock: &SharedClock,
) -> End {
    match error.kind() {
        HandlerErrorKind::NewerVersion => {
            attempts.wait_for_newer_program(&error, clock);
            End::Newer(attempts)
        }
        HandlerErrorKind::NotBegun => {
            if is_counted_alone {
                attempts.undo_begin(true, clock);
            }
            End::Again(attempts)
        }
        _ => {
            let (handler, retries) = (queue.spec.name.clone(), queue.subscriber.options().retries);
            let failure = Failure { handler, retries, error };
            match attempts.fail(&[failure], &[], &queue.spec.retry, clock) {
                Some(_) => {
                    let due = attempts.due_at().unwrap_or_default();
                    End::Retry(attempts, due)
                }
                None => End::Dead { attempts, since: whole_micros(clock.now()), is_held: queue.spec.holds_dead },
            }
        }
    }
}

/// Returns a time as stores keep it.
fn whole_micros(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(time.nanosecond() / 1_000 * 1_000).unwrap_or(time)
}
