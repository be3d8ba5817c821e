//! Checks of events that all stores and buses make alike.

use crate::{
    domain::{
        error::BoxError,
        metadata::EventId,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::StreamId,
        validity::InvalidEvent,
    },
    port::{AppendError, PublishError, relay::PublishRange},
};

/// Finds an event id that an append contains twice; stores refuse it before sending.
///
/// # Errors
/// [`AppendError::EventIdTaken`] with the first such id.
pub fn check_ids(stream: &StreamId, events: &[NewEvent]) -> Result<(), AppendError> {
    if events.len() < 2 {
        return Ok(());
    }
    let mut ids: Vec<_> = events.iter().map(NewEvent::event_id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(taken(stream, pair[0])),
        None => Ok(()),
    }
}

/// Finds an event that [cannot be kept](NewEvent::check_for) in `stream`; stores refuse it before sending, so that the
/// same append is good on every store or on none.
///
/// # Errors
/// [`AppendError::Refused`] with an [`InvalidEvent`](crate::event::InvalidEvent) that names the first such event.
pub fn check_events(stream: &StreamId, events: &[NewEvent]) -> Result<(), AppendError> {
    let refused = |invalid| AppendError::Refused { stream: stream.clone(), source: Box::new(invalid) };
    events.iter().try_for_each(|event| event.check_for(stream)).map_err(refused)
}

/// Finds an event that [cannot be kept](RecordedEvent::check); buses refuse it before they publish any event.
///
/// # Errors
/// [`PublishError::Refused`] with an [`InvalidEvent`](crate::event::InvalidEvent) and the id of the first such event.
pub fn check_records(destination: &Name, events: &[RecordedEvent]) -> Result<(), PublishError> {
    let refused = |invalid: InvalidEvent| PublishError::Refused {
        destination: destination.clone(),
        event_id: Some(invalid.event_id),
        source: Box::new(invalid),
    };
    events.iter().try_for_each(RecordedEvent::check).map_err(refused)
}

/// Checks that a range does not end before its start, and that its events lie between, in position order; buses refuse it
/// before they publish any event.
///
/// # Errors
/// [`PublishError::Refused`] with the id of the first event that is out of order or has no position.
pub fn check_range(destination: &Name, range: PublishRange<'_>) -> Result<(), PublishError> {
    let refused = |event_id, problem: String| {
        let source = BoxError::from(problem);
        Err(PublishError::Refused { destination: destination.clone(), event_id, source })
    };
    let PublishRange { mut after, through, events } = range;
    if through < after {
        return refused(None, format!("a range from {after} ends before it, at {through}"));
    }
    for event in events {
        let event_id = event.metadata().event_id();
        let Some(position) = event.position() else {
            let problem = format!("event {event_id} has no place in a store, so no relay can publish it");
            return refused(Some(event_id), problem);
        };
        if position <= after || position > through {
            let problem =
                format!("event {event_id} at position {position} is not between {after} and {through}, in order");
            return refused(Some(event_id), problem);
        }
        after = position;
    }
    Ok(())
}

/// Decides whether an append of `ids` to `stream` is a repeat; `found` are the events of the stream that have
/// one of these ids.
///
/// Returns `None` if no id is stored, so that the append is not a repeat; returns the result of the first append if it
/// is.
///
/// # Errors
/// [`AppendError::EventIdTaken`] if only some are stored, or not one after the other.
pub fn first_result(
    stream: &StreamId,
    ids: &[EventId],
    mut found: Vec<RecordedEvent>,
) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
    let Some(first) = found.first() else {
        return Ok(None);
    };
    let culprit = first.metadata().event_id();
    found.sort_unstable_by_key(RecordedEvent::version);
    let found_ids = found.iter().map(|event| event.metadata().event_id());
    let same_ids = found_ids.eq(ids.iter().copied());
    let contiguous = found.windows(2).all(|pair| pair[0].version().next() == pair[1].version());
    if same_ids && contiguous { Ok(Some(found)) } else { Err(taken(stream, culprit)) }
}

fn taken(stream: &StreamId, event_id: EventId) -> AppendError {
    AppendError::EventIdTaken { event_id, stream: stream.clone() }
}
