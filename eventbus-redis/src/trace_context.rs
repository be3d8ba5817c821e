//! The trace context beside the payload of an entry.

use eventbus::support::TraceContext;

use crate::{keys::field, wire};

/// Returns the context beside the payload of an entry.
pub(crate) fn from_fields(fields: &[(&[u8], &[u8])]) -> Option<TraceContext> {
    let parent = wire::flat_field(fields, field::TRACEPARENT)?;
    TraceContext::parse(parent, wire::flat_field(fields, field::TRACESTATE))
}

/// Appends a context to the fields beside the payload.
pub(crate) fn append_to_fields(context: &TraceContext, fields: &mut wire::EntryFields<'_>) {
    fields.push((field::TRACEPARENT, context.parent().as_bytes().to_vec().into()));
    let state = context.state().map(|state| (field::TRACESTATE, state.as_bytes().to_vec().into()));
    fields.extend(state);
}
