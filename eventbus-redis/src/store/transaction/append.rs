//! Appends of a transaction: checked when planned, checked again and added by the commit.

use eventbus::{
    EventId, NewEvent, RecordedEvent, StreamId, Version,
    port::{Append, AppendError, ReadError, first_result},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Program, RedisTransaction};
use crate::{
    error::boxed,
    store::{
        RedisTransactionError,
        append::{check_append, load_first_result, write_events},
        inner::StoreInner,
        read::stream_version,
    },
};

/// Events that the commit adds to a stream.
#[derive(Debug)]
pub(super) struct PlannedAppend {
    stream: StreamId,
    /// Version of the stream in the store, and the number of events that this transaction planned for it before these.
    stored_version: Version,
    already_planned: usize,
    events: Vec<NewEvent>,
    recorded_at: OffsetDateTime,
    recorded: Vec<RecordedEvent>,
}

/// Returns the stored records of these events; `None` if the store knows none of their ids.
async fn find_stored(
    inner: &StoreInner,
    stream: &StreamId,
    events: &[NewEvent],
) -> Result<Option<Vec<RecordedEvent>>, AppendError> {
    let mut command = redis::cmd("HMGET");
    command.arg(inner.keys().ids());
    for event in events {
        command.arg(event.event_id().as_uuid().as_bytes());
    }
    let found: Vec<Option<u64>> =
        inner.connection().query(&command).await.map_err(|error| AppendError::Unavailable(boxed(error)))?;
    let positions: Vec<u64> = found.into_iter().flatten().collect();
    if positions.is_empty() {
        return Ok(None);
    }
    load_first_result(inner, stream, events, &positions).await.map(Some)
}

impl RedisTransaction {
    /// Plans an append in the store of this id.
    pub(in crate::store) async fn append(
        &mut self,
        store_id: Uuid,
        append: Append,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        if !check_append(&append)? {
            return Ok(Vec::new());
        }
        let Append { stream, expected, events } = append;
        let refused =
            |source: RedisTransactionError| AppendError::Refused { stream: stream.clone(), source: source.into() };
        // by id: two connects to one store are the same store
        if self.inner.id() != store_id {
            return Err(refused(RedisTransactionError::OtherStore));
        }
        self.ensure_not_in_shadow("append_in").map_err(refused)?;
        let ids: Vec<EventId> = events.iter().map(NewEvent::event_id).collect();
        // ids that this transaction has planned are not in the store yet
        let planned = self.appends.iter().flat_map(|appended| &appended.recorded);
        let planned = planned.filter(|event| ids.contains(&event.metadata().event_id())).cloned().collect();
        if let Some(first) = first_result(&stream, &ids, planned)? {
            return Ok(first);
        }
        if let Some(first) = find_stored(&self.inner, &stream, &events).await? {
            return Ok(first);
        }
        let of_stream = || self.appends.iter().filter(|appended| appended.stream == stream);
        let own = of_stream().map(|appended| appended.events.len()).sum();
        let before = match of_stream().next() {
            Some(appended) => appended.stored_version,
            None => stream_version(&self.inner, &stream).await.map_err(|error| match error {
                ReadError::Unavailable(source) => AppendError::Unavailable(source),
                corrupt => AppendError::Refused { stream: stream.clone(), source: corrupt.into() },
            })?,
        };
        let actual = before.plus(own);
        if !expected.matches(actual) {
            return Err(AppendError::Conflict { stream, expected, actual });
        }
        let recorded_at = self.inner.config().clock.now();
        let to_record = |(number, event): (usize, &NewEvent)| {
            let record = event.clone().recorded_as(stream.clone(), actual.plus(number + 1), None);
            record.with_recorded_at(Some(recorded_at))
        };
        let recorded: Vec<_> = events.iter().enumerate().map(to_record).collect();
        self.appends.push(PlannedAppend {
            stream,
            stored_version: before,
            already_planned: own,
            events,
            recorded_at,
            recorded: recorded.clone(),
        });
        Ok(recorded)
    }

    /// Adds a step for each append: the state of the stream that the commit must find, and the events to add.
    pub(super) fn add_append_checks(&self, program: &mut Program) {
        let keys = self.inner.keys();
        for PlannedAppend { stream, stored_version: before, already_planned: own, events, recorded_at, .. } in
            &self.appends
        {
            let key = keys.stream(stream.aggregate_type(), stream.aggregate_id().as_str());
            program.arg("events").key(&keys.feed()).key(&keys.ids()).key(&key);
            program.arg(before.to_string()).arg(own.to_string());
            program.arg(self.inner.acknowledged().position().to_string());
            program.arg(stream.aggregate_type().as_str()).arg(stream.aggregate_id().as_str());
            write_events(events, *recorded_at, self.inner.known_event_types(), |word| program.push_arg(word));
        }
    }

    /// Notes that the commit has appended events up to position `last`, and wakes the readers of the feed.
    pub(super) fn record_append(&self, last: &str) {
        if let (false, Ok(last)) = (self.appends.is_empty(), last.parse::<u64>()) {
            self.inner.known_event_types().add_all(self.appends.iter().flat_map(|appended| &appended.events));
            self.inner.acknowledged().raise_to(last.into());
            self.inner.append_signal().notify();
        }
    }
}
