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
    let encode = |(event, id): (&A::Event, _)| Ok(event.encode_as(id, clock.now())?.with_context(context.clone()));
    root.pending_with_ids().map(encode).collect()
}
