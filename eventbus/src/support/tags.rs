//! Tags and boundaries, as stores keep them.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    domain::{
        name::Name,
        record::RecordedEvent,
        stream::Position,
        tag::{TAGS_MAX, Tag},
        validity::{EventFault, InvalidEvent},
    },
    port::{
        AppendError, ReadError, ReadFeed,
        boundaries::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
        multi_stream_append::{Append, MultiStreamAppend},
    },
};

/// Behind every event: a decision reads what is committed, not only what precedes the head of the feed.
const END: Position = Position::new(i64::MAX as u64);

/// Reads a boundary of a store that has no statement for its counts and its events together.
///
/// # Errors
/// [`ReadError`] if the store cannot be read.
pub async fn count_then_read<'s, S: Boundaries + ReadFeed>(
    store: &'s S,
    boundary: &Boundary,
) -> Result<BoundaryRead<'s>, ReadError> {
    let condition = store.count_tagged(boundary).await?;
    Ok(BoundaryRead { condition, events: store.read_feed(Position::START, END, &boundary.filter()) })
}

/// The use of a tag by a multi-stream append: the events that it adds, and the count that it expects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagUse {
    /// How many events of each type it adds to the tag; empty if the tag is only compared.
    pub added: BTreeMap<Name, u64>,
    /// The count that the tag must have now, if the condition names the tag.
    pub expected: Option<u64>,
}

/// Returns the tags that a multi-stream append uses, by tenant and tag, in the order in which stores lock them.
#[must_use]
pub fn tag_uses(multi: &MultiStreamAppend) -> BTreeMap<(Uuid, Tag), TagUse> {
    let mut uses: BTreeMap<(Uuid, Tag), TagUse> = BTreeMap::new();
    for Append { stream, events, .. } in &multi.appends {
        for event in events {
            for tag in event.tags() {
                let tag_use = uses.entry((stream.tenant_or_nil(), tag.clone())).or_default();
                *tag_use.added.entry(event.event_type().clone()).or_default() += 1;
            }
        }
    }
    if let Some(condition) = &multi.condition {
        let tenant = condition.boundary.tenant_id.unwrap_or(Uuid::nil());
        for (tag, count) in condition.tag_counts() {
            uses.entry((tenant, tag.clone())).or_default().expected = Some(count);
        }
    }
    uses
}

/// Returns the error of an append whose boundary has further events.
#[must_use]
pub fn boundary_moved(condition: &BoundaryCondition) -> AppendError {
    let names: BTreeSet<_> = condition.boundary.tags().into_iter().map(|tag| tag.name().to_owned()).collect();
    AppendError::BoundaryMoved { names: names.into_iter().collect() }
}

/// Returns the error of a tag for an event that the store does not have.
#[must_use]
pub fn no_such_event(event: &RecordedEvent) -> AppendError {
    let source = format!("the store has no event {} of this stream", event.version()).into();
    AppendError::Refused { stream: event.metadata().stream().clone(), source }
}

/// Returns the error of a tag for an event that has as many as it can have.
#[must_use]
pub fn too_many_tags(event: &RecordedEvent) -> AppendError {
    let metadata = event.metadata();
    let source = InvalidEvent {
        event_id: metadata.event_id(),
        event_type: metadata.event_type().clone(),
        fault: EventFault::Tags { found: TAGS_MAX + 1 },
    };
    AppendError::Refused { stream: metadata.stream().clone(), source: source.into() }
}
