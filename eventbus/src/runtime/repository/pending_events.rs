//! Encoding the pending events of an aggregate, for a save.

use crate::domain::{
    aggregate::{Aggregate, AggregateRoot, Apply},
    clock::SharedClock,
    codec::EncodeError,
    context::EventContext,
    record::{EncodeEvent as _, NewEvent},
};

/// Encodes the pending events of an aggregate.
pub(super) fn encode_pending<A: Aggregate + Apply>(
    root: &AggregateRoot<A>,
    context: &EventContext,
    clock: &SharedClock,
) -> Result<Vec<NewEvent>, EncodeError> {
    let mut events = Vec::with_capacity(root.pending().len());
    for (event, id) in root.pending_with_ids() {
        events.push(event.encode_as(id, clock.now())?.with_context(context.clone()));
    }
    Ok(events)
}
