//! Handling of one event by a projection's method, and its retries.

use std::time::Duration;

use super::ProjectionError;
use crate::{
    domain::{error::BoxError, name::Name, record::RecordedEvent, stream::Position},
    port::{
        backoff::Backoff,
        delivery::{Delivery, HandlerError, HandlerErrorKind},
        state::StateMap,
    },
    runtime::definition::ProjectionDefinition,
};

/// Reason why a pass over the feed ends before the end that the feed had when the pass began.
pub(super) enum FeedStop {
    /// Cancelled, or the position was set back.
    Interrupted,
    /// A different process may hold the lease, or the checkpoint has moved: also by an earlier commit whose outcome was
    /// unknown. A transaction commits no rows then.
    LeaseLost,
    /// The projection failed at this event; it has handled those before it.
    EventFailed(RecordedEvent, HandlerError),
    /// The attribute names a table or a column that the store does not have.
    MissingTable(ProjectionError),
    /// State in memory includes events that the store, which ends at this position, does not have: an older copy has
    /// replaced it.
    WentBack(Position),
    /// The store failed, or cannot read an event.
    Store(BoxError),
}

impl<E: Into<BoxError>> From<E> for FeedStop {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// Makes the delivery of a record from a feed.
pub(super) fn feed_delivery(definition: &ProjectionDefinition, record: RecordedEvent, state: &StateMap) -> Delivery {
    Delivery::new(record, Name::from_static(definition.name)).with_state(state.clone())
}

/// Most events of a call of a batch method, and of a transaction of a projection that has one; fewer if they have
/// [`PAGE_BYTES`](crate::support::PAGE_BYTES).
pub(super) const BATCH_EVENTS_MAX: usize = 2_000;

/// Returns how many of the events, from the first, go to one call of a method: those up to the next event of a different
/// method for a batch method, one event for each other method.
pub(super) fn count_of_next_call(definition: &ProjectionDefinition, events: &[RecordedEvent]) -> usize {
    let method_of = |event: &RecordedEvent| definition.batch_method(event.event_type());
    match events.first().and_then(method_of) {
        Some(method) => events.iter().take_while(|event| method_of(event) == Some(method)).count(),
        None => events.len().min(1),
    }
}

/// The number of retries of an event, and their delays.
const EVENT_RETRIES_MAX: u32 = 3;
const EVENT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

/// The longest delay before a retry. A method that asks for a longer one stops the projection: so the stop is seen, an
/// operator may skip the event, and the projection retries it every minute.
const EVENT_DELAY_MAX: Duration = Duration::from_secs(5);

/// An event that could not be handled.
#[derive(Debug)]
pub(super) struct EventRetry {
    pub(super) position: Position,
    /// Number of attempts so far.
    pub(super) attempts: u32,
    /// The error of the last attempt.
    pub(super) error: HandlerError,
}

impl EventRetry {
    /// Returns `true` if no retry follows.
    pub(super) fn is_final(&self) -> bool {
        let waits_long = matches!(self.error.kind(), HandlerErrorKind::RetryAfter(delay) if delay > EVENT_DELAY_MAX);
        self.error.is_permanent() || self.attempts > EVENT_RETRIES_MAX || waits_long
    }

    pub(super) fn log_retry(&self, projection: &'static str) {
        tracing::warn!(
            projection, position = %self.position, attempt = self.attempts, error = %self.error,
            "projection cannot handle an event, trying again"
        );
    }

    /// Returns the backoff before the next attempt.
    pub(super) fn delay(&self) -> Duration {
        match self.error.kind() {
            HandlerErrorKind::RetryAfter(delay) => delay,
            _ => EVENT_BACKOFF.jittered(self.attempts),
        }
    }
}
