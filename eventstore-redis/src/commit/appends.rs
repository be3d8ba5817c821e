//! Appends of a transaction: checked when planned, checked again and added by the commit.

use eventbus::{
    EventId, NewEvent, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, ReadError},
    support::first_result,
};
use eventbus_redis_core::{error::boxed, program::AtomicProgram, reply::request};
use time::OffsetDateTime;

use super::tags;
use crate::{
    append::{load_first_result, tenant_text, write_events},
    entry,
    inner::StoreInner,
    keys::{StoreKeys, event_keys},
    read::{StreamEnd, stream_end},
};

/// Events that the commit adds to a stream.
#[derive(Debug)]
struct PlannedAppend {
    stream: StreamId,
    /// Version of the stream in the store, and the number of events that this transaction planned for the stream
    /// before.
    stored_version: Version,
    already_planned: usize,
    events: Vec<NewEvent>,
    recorded_at: OffsetDateTime,
    recorded: Vec<RecordedEvent>,
}

/// Appends in the order in which the transaction planned them.
#[derive(Debug, Default)]
pub(crate) struct PlannedAppends(Vec<PlannedAppend>);

impl PlannedAppends {
    /// Plans an append, and returns `true` with its events, without positions; or `false` with the records if it was
    /// made before. For an append without events, plans a check of its stream.
    pub(crate) async fn try_plan(
        &mut self,
        inner: &StoreInner,
        append: Append,
    ) -> Result<(Vec<RecordedEvent>, bool), AppendError> {
        let Append { stream, expected, events } = append;
        let ids: Vec<EventId> = events.iter().map(NewEvent::event_id).collect();
        // ids that this transaction has planned are not in the store yet
        let planned = self.0.iter().filter(|appended| appended.stream == stream);
        let planned = planned.flat_map(|appended| &appended.recorded);
        let planned = planned.filter(|event| ids.contains(&event.metadata().event_id())).cloned().collect();
        if let Some(first) = first_result(&stream, &ids, planned)? {
            return Ok((first, true));
        }
        let of_stream = || self.0.iter().filter(|appended| appended.stream == stream);
        let own = of_stream().map(|appended| appended.events.len()).sum();
        let StreamEnd { version: before, recorded_at: last_recorded_at } = match of_stream().next_back() {
            Some(appended) => StreamEnd { version: appended.stored_version, recorded_at: Some(appended.recorded_at) },
            None => stream_end(inner, &stream).await.map_err(|error| match error {
                ReadError::Unavailable(source) => AppendError::Unavailable(source),
                corrupt => AppendError::Refused { stream: stream.clone(), source: corrupt.into() },
            })?,
        };
        // after the end of the stream: an earlier attempt of this append may have run just before the end was read
        if let Some(first) = find_stored(inner, &stream, &events).await? {
            return Ok((first, false));
        }
        let actual = before.plus(own);
        if !expected.matches(actual) {
            return Err(AppendError::Conflict { stream, expected, actual });
        }
        // the clock may have been set back; the commit fails if the stream has a later event by then
        let now = inner.config().clock.now();
        let recorded_at = last_recorded_at.map_or(now, |last| last.max(now));
        let to_record = |(number, event): (usize, &NewEvent)| {
            let record = event.clone().recorded_as(stream.clone(), actual.plus(number + 1), None);
            record.with_recorded_at(Some(recorded_at))
        };
        let recorded: Vec<_> = events.iter().enumerate().map(to_record).collect();
        self.0.push(PlannedAppend {
            stream,
            stored_version: before,
            already_planned: own,
            events,
            recorded_at,
            recorded: recorded.clone(),
        });
        Ok((recorded, true))
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops the appends after the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Adds a step for each append: the state of the stream that the commit must find, and the events to add.
    pub(crate) fn add_checks(&self, inner: &StoreInner, program: &mut AtomicProgram) {
        let keys = inner.keys();
        for PlannedAppend { stream, stored_version: before, already_planned: own, events, recorded_at, .. } in &self.0 {
            let key = keys.stream(stream);
            program.step("events").key(&keys.feed()).key(&keys.ids()).key(&key);
            program.arg(before.to_string()).arg(own.to_string());
            program.arg(inner.acknowledged().position().to_string());
            program.arg(entry::micros_of(*recorded_at).to_string());
            program.arg(stream.aggregate_type().as_str()).arg(stream.aggregate_id().as_str());
            program.arg(tenant_text(stream));
            write_events(stream, events, inner.known_event_types(), |word| program.push_arg(word));
        }
    }

    /// Adds the steps that add the events, with their tags.
    pub(crate) fn add_writes(&self, keys: &StoreKeys, program: &mut AtomicProgram) {
        if self.0.is_empty() {
            return;
        }
        program.step("append");
        let events = self.0.iter().flat_map(|append| append.events.iter().map(|event| (&append.stream, event)));
        tags::add_writes(events, keys, program);
        program.step("place").key(&keys.feed()).key(&keys.ids()).key(&keys.event_types());
    }

    /// Notes that the commit has appended events up to position `last`, and wakes the readers of the feed.
    pub(crate) fn record(&self, inner: &StoreInner, last: &str) {
        if let (false, Ok(last)) = (self.0.is_empty(), last.parse::<u64>()) {
            inner.known_event_types().add_all(self.0.iter().flat_map(|appended| &appended.events));
            inner.acknowledged().raise_to(last.into());
            inner.append_signal().notify();
        }
    }
}

/// Returns the stored records of these events; `None` if the store knows none of their ids.
async fn find_stored(
    inner: &StoreInner,
    stream: &StreamId,
    events: &[NewEvent],
) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
    if events.is_empty() {
        return Ok(None);
    }
    let ids: Vec<_> = events.iter().map(NewEvent::event_id).map(event_keys(stream)).collect();
    let command = request("HMGET", (inner.keys().ids(), ids.iter().map(|id| &id[..]).collect::<Vec<_>>()));
    let found: Vec<Option<u64>> =
        inner.connection().query_idempotent(&command).await.map_err(|error| AppendError::Unavailable(boxed(error)))?;
    let positions: Vec<u64> = found.into_iter().flatten().collect();
    if positions.is_empty() {
        return Ok(None);
    }
    load_first_result(inner, stream, events, &positions).await.map(Some)
}
