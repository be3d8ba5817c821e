//! Checks the final tables against the answers that the writers received.

use std::collections::HashMap;

use eventbus::{EventId, RecordedEvent};
use sqlx::{PgConnection, types::Uuid};

use crate::writers::Notes;

/// An event as stored, read without the store.
pub(crate) struct Row {
    position: i64,
    stream: String,
    version: i64,
    event_id: Uuid,
}

pub(crate) struct Truth {
    /// In position order.
    pub(crate) events: Vec<Row>,
    streams: HashMap<String, i64>,
}

impl Truth {
    pub(crate) async fn read(connection: &mut PgConnection) -> Self {
        let sql = "SELECT e.position, s.aggregate_type || '/' || s.aggregate_id, e.version, e.event_id
            FROM events e LEFT JOIN streams s USING (stream_no) ORDER BY e.position";
        let rows: Vec<(i64, String, i64, Uuid)> = sqlx::query_as(sql).fetch_all(&mut *connection).await.unwrap();
        let events =
            rows.into_iter().map(|(position, stream, version, event_id)| Row { position, stream, version, event_id });
        let events = events.collect();
        let sql = "SELECT aggregate_type || '/' || aggregate_id, version FROM streams";
        let streams: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(connection).await.unwrap();
        Self { events, streams: streams.into_iter().collect() }
    }
}

/// In each stream versions are contiguous in the order of positions, and the stream's own row agrees.
pub(crate) fn check_streams(truth: &Truth) {
    let mut versions: HashMap<&str, i64> = HashMap::new();
    for event in &truth.events {
        let version = versions.entry(&event.stream).or_default();
        *version += 1;
        assert_eq!(event.version, *version, "version order of {} at {}", event.stream, event.position);
    }
    assert_eq!(versions.len(), truth.streams.len(), "streams without events");
    for (stream, version) in versions {
        assert_eq!(truth.streams[stream], version, "version of {stream}");
    }
}

/// Acknowledged events are stored once, at their places; refused ones are not stored; no further event is.
pub(crate) fn check_answers(truth: &Truth, notes: &[Notes]) {
    let by_id: HashMap<Uuid, &Row> = truth.events.iter().map(|row| (row.event_id, row)).collect();
    assert_eq!(by_id.len(), truth.events.len(), "an event is stored twice");
    let mut told: HashMap<Uuid, &RecordedEvent> = HashMap::new();
    for event in notes.iter().flat_map(|notes| &notes.stored) {
        let id = event.metadata().event_id().as_uuid();
        let row = by_id.get(&id).unwrap_or_else(|| panic!("{id} was acknowledged and is not there"));
        let place = (event.position().map(|position| position.as_i64()), event.version().as_i64());
        assert_eq!(place, (Some(row.position), row.version), "place of {id}");
        if let Some(first) = told.insert(id, event) {
            assert_eq!(first, event, "two answers for {id}");
        }
    }
    for id in notes.iter().flat_map(|notes| &notes.refused).copied().map(EventId::as_uuid) {
        // a repeat may be stored although the first attempt was rolled back, and the other way round
        assert!(told.contains_key(&id) || !by_id.contains_key(&id), "{id} was refused and is there");
    }
    assert_eq!(told.len(), by_id.len(), "events are stored that nobody was told of");
}

/// The follower saw exactly the stored events, in position order.
pub(crate) fn check_follower(truth: &Truth, seen: &[RecordedEvent]) {
    let seen_at: Vec<_> = seen.iter().map(|event| event.position().map_or(0, |position| position.as_i64())).collect();
    if let Some(pair) = seen_at.windows(2).find(|pair| pair[0] >= pair[1]) {
        panic!("position {} was seen after {}", pair[1], pair[0]);
    }
    let stored: Vec<_> = truth.events.iter().map(|row| row.position).collect();
    let missed: Vec<_> = stored.iter().filter(|position| seen_at.binary_search(position).is_err()).collect();
    assert!(missed.is_empty(), "{} of {} events were missed: {missed:?}", missed.len(), stored.len());
    assert_eq!(seen_at, stored, "events were seen that are not there");
    for (event, row) in seen.iter().zip(&truth.events) {
        assert_eq!(event.metadata().event_id().as_uuid(), row.event_id, "event at {}", row.position);
        assert_eq!(event.version().as_i64(), row.version, "version at {}", row.position);
    }
}
