//! Checks of events that are the same for all stores and buses.

use std::collections::HashSet;

use crate::{
    domain::{
        error::BoxError,
        metadata::EventId,
        name::Name,
        record::{NewEvent, RecordedEvent},
        stream::StreamId,
        validity::InvalidEvent,
    },
    port::{
        Append, AppendError, EventStore, PublishError,
        multi_stream_append::{MULTI_STREAM_APPENDS_MAX, MultiStreamAppend},
        relay::{PublishRange, PublishedPosition},
    },
};

/// The reason why a store refuses a multi-stream append.
#[derive(Debug, thiserror::Error)]
enum InvalidMultiStreamAppend {
    #[error("the multi-stream append has two appends to this stream")]
    StreamTwice,
    #[error("the multi-stream append has more than {MULTI_STREAM_APPENDS_MAX} appends")]
    TooLarge,
}

/// The store keeps no index of what an event takes or is about.
#[derive(Debug, thiserror::Error)]
#[error("{store} has no {missing}")]
pub struct MissingIndex {
    /// The description of the store.
    pub store: String,
    /// What it does not keep: `unique values` or `tags`.
    pub missing: &'static str,
}

/// Checks that a store has unique values and tags, if the events have any: it would append them as if nothing depended on
/// them.
///
/// # Errors
/// [`AppendError::Refused`] with a [`MissingIndex`].
pub fn check_indexes(store: &dyn EventStore, stream: &StreamId, events: &[NewEvent]) -> Result<(), AppendError> {
    let missing = if events.iter().any(|event| !event.unique().is_empty()) && store.unique_values().is_none() {
        "unique values"
    } else if events.iter().any(|event| !event.tags().is_empty()) && store.boundaries().is_none() {
        "tags"
    } else {
        return Ok(());
    };
    let source = MissingIndex { store: store.describe(), missing }.into();
    Err(AppendError::Refused { stream: stream.clone(), source })
}

/// Checks that every store can take a multi-stream append; stores call it before sending.
///
/// # Errors
/// [`AppendError::Refused`] if it has two appends to one stream or too many appends; else as for [`check_ids`] and
/// [`check_events`].
pub fn check_multi_stream(multi: &MultiStreamAppend) -> Result<(), AppendError> {
    let refused = |append: &Append, fault: InvalidMultiStreamAppend| {
        Err(AppendError::Refused { stream: append.stream.clone(), source: fault.into() })
    };
    if let Some(append) = multi.appends.get(MULTI_STREAM_APPENDS_MAX) {
        return refused(append, InvalidMultiStreamAppend::TooLarge);
    }
    let mut streams = HashSet::new();
    for append in &multi.appends {
        if !streams.insert(&append.stream) {
            return refused(append, InvalidMultiStreamAppend::StreamTwice);
        }
        check_ids(&append.stream, &append.events)?;
        check_events(&append.stream, &append.events)?;
    }
    Ok(())
}

/// Checks that an append contains no event id twice; stores call it before sending.
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

/// Checks that each event [can be kept](NewEvent::check_for) in `stream`; stores call it before sending, so that the
/// same append is good on every store or on none.
///
/// # Errors
/// [`AppendError::Refused`] with an [`InvalidEvent`](crate::event::InvalidEvent) that names the first such event.
pub fn check_events(stream: &StreamId, events: &[NewEvent]) -> Result<(), AppendError> {
    let refused = |invalid| AppendError::Refused { stream: stream.clone(), source: Box::new(invalid) };
    events.iter().try_for_each(|event| event.check_for(stream)).map_err(refused)
}

/// Checks that each event [can be kept](RecordedEvent::check); buses call it before they publish any event.
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

/// Checks that a range does not end before its start, and that its events lie between, in position order; buses call it
/// before they publish any event.
///
/// # Errors
/// [`PublishError::Refused`] with the id of the first event that is out of order or has no position.
pub fn check_range(destination: &Name, range: PublishRange<'_>) -> Result<(), PublishError> {
    let refused = |event_id, problem: String| {
        let source = BoxError::from(problem);
        Err(PublishError::Refused { destination: destination.clone(), event_id, source })
    };
    let PublishRange { after: PublishedPosition { position: mut after, .. }, through, events } = range;
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
/// Returns the result of the first append if it is a repeat; `None` if no id is stored.
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

/// The outcome of one append among several, before they are committed.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamAttempt {
    /// Its events, which the commit stores.
    Now(Vec<RecordedEvent>),
    /// An earlier call has stored its events.
    Before(Vec<RecordedEvent>),
}

/// The decision of a store about a multi-stream append.
#[derive(Debug, Clone, PartialEq)]
pub enum MultiStreamDecision {
    /// It was made before, and there is no event to commit: the records of the first call.
    Repeated(Vec<Vec<RecordedEvent>>),
    /// All appends can be committed: their records.
    Commit(Vec<Vec<RecordedEvent>>),
}

/// Decides about a multi-stream append, from the attempts of its appends.
///
/// # Errors
/// The first error that is neither a conflict nor a taken value; [`AppendError::EventIdTaken`] if some appends were made
/// before and some were not; else the first conflict; else the first taken value.
pub fn decide_multi_stream(
    appends: &[Append],
    attempts: Vec<Result<StreamAttempt, AppendError>>,
) -> Result<MultiStreamDecision, AppendError> {
    let (mut now, mut before, mut conflict, mut taken) = (Vec::new(), Vec::new(), None, None);
    for (append, attempt) in appends.iter().zip(attempts) {
        let stored = match attempt {
            Ok(StreamAttempt::Now(events)) => {
                now.push(events);
                None
            }
            Ok(StreamAttempt::Before(events)) => Some(events),
            Err(error) if error.is_conflict() => {
                conflict.get_or_insert(error);
                None
            }
            Err(error @ AppendError::Taken { .. }) => {
                taken.get_or_insert(error);
                None
            }
            Err(error) => return Err(error),
        };
        if !append.events.is_empty() {
            before.push(stored);
        }
    }
    let mut before = before.into_iter();
    match (first_multi_stream_result(appends, |_| Ok(before.next().flatten()))?, conflict.or(taken)) {
        (Some(first), _) => Ok(MultiStreamDecision::Repeated(first)),
        (None, Some(refused)) => Err(refused),
        (None, None) => Ok(MultiStreamDecision::Commit(now)),
    }
}

/// Decides whether a multi-stream append is a repeat, from the [first result](first_result) of each append with events.
///
/// Returns the records of each append if it is a repeat, none for an append without events; `None` if no append was
/// made.
///
/// # Errors
/// [`AppendError::EventIdTaken`] if only some were made.
pub fn first_multi_stream_result(
    appends: &[Append],
    mut first_result_of: impl FnMut(&Append) -> Result<Option<Vec<RecordedEvent>>, AppendError>,
) -> Result<Option<Vec<Vec<RecordedEvent>>>, AppendError> {
    let (mut results, mut missing) = (Vec::new(), false);
    for append in appends {
        if append.events.is_empty() {
            results.push(Vec::new());
            continue;
        }
        match first_result_of(append)? {
            Some(first) => results.push(first),
            None => missing = true,
        }
    }
    match results.iter().flatten().next() {
        None => Ok(None),
        Some(stored) if missing => Err(taken(stored.metadata().stream(), stored.metadata().event_id())),
        Some(_) => Ok(Some(results)),
    }
}

fn taken(stream: &StreamId, event_id: EventId) -> AppendError {
    AppendError::EventIdTaken { event_id, stream: stream.clone() }
}
