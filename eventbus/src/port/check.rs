//! What every store decides alike about the events it is given.

use serde::de::{Error as _, IgnoredAny};

use super::AppendError;
use crate::domain::{
    metadata::EventId,
    record::{NewEvent, RecordedEvent},
    stream::StreamId,
};

/// Finds an event id that stands twice in one append; stores refuse it before sending.
///
/// # Errors
/// [`AppendError::EventIdTaken`] with the first id that stands twice.
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

/// Finds a payload that is not a JSON object; stores refuse it before sending, because nobody could read it back.
///
/// # Errors
/// [`AppendError::Refused`] with an [`InvalidPayload`] that names the first such event.
pub fn check_payloads(stream: &StreamId, events: &[NewEvent]) -> Result<(), AppendError> {
    for event in events {
        check_object(event.payload()).map_err(|source| AppendError::Refused {
            stream: stream.clone(),
            source: Box::new(InvalidPayload { event_id: event.event_id(), source }),
        })?;
    }
    Ok(())
}

/// Checks the syntax only: numbers of any size and escapes of any kind are the reader's business.
fn check_object(json: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(json)?;
    if json.trim_start().starts_with('{') { Ok(()) } else { Err(serde_json::Error::custom("not an object")) }
}

/// An event whose payload is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("payload of event {event_id} is not a JSON object")]
#[non_exhaustive]
pub struct InvalidPayload {
    /// The event.
    pub event_id: EventId,
    /// What is wrong with its payload, and where.
    pub source: serde_json::Error,
}

/// Decides whether an append of `ids` to `stream` is a repeat; `found` are the stored events with one of these ids.
///
/// `None`: none of them is stored, so it is not a repeat. Some: it was appended before, and this is its first result.
///
/// # Errors
/// [`AppendError::EventIdTaken`] if only some are stored, or in another stream, or not one after the other.
pub fn first_result(
    stream: &StreamId,
    ids: &[EventId],
    mut found: Vec<RecordedEvent>,
) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
    let Some(first) = found.first() else {
        return Ok(None);
    };
    let foreign = found.iter().find(|event| event.metadata().stream() != stream);
    let culprit = foreign.unwrap_or(first).metadata().event_id();
    let same_stream = foreign.is_none();
    found.sort_unstable_by_key(RecordedEvent::version);
    let found_ids = found.iter().map(|event| event.metadata().event_id());
    let same_ids = found_ids.eq(ids.iter().copied());
    let contiguous = found.windows(2).all(|pair| pair[0].version().next() == pair[1].version());
    if same_stream && same_ids && contiguous { Ok(Some(found)) } else { Err(taken(stream, culprit)) }
}

fn taken(stream: &StreamId, event_id: EventId) -> AppendError {
    AppendError::EventIdTaken { event_id, stream: stream.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_objects() {
        for good in ["{}", " {\"a\": 1e999}\n", r#"{"\ud800":"\u0000"}"#] {
            assert!(check_object(good).is_ok(), "{good}");
        }
        for bad in ["", "5", "[1]", "null", "{", "{'a':1}", "{}{}", "{\"a\":\"\u{1}\"}"] {
            assert!(check_object(bad).is_err(), "{bad}");
        }
    }
}
