//! The parameters of append statements: streams and new events, one array per column.

use eventbus::{ExpectedVersion, NewEvent, StreamId, Version};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::pool::Query;

/// The streams of a statement, and the stream of each of its events.
#[derive(Debug, Default)]
pub(crate) struct StreamColumns<'e> {
    aggregate_ids: Vec<&'e str>,
    aggregate_types: Vec<&'e str>,
    expected: Vec<i64>,
    /// The number of events of each stream, at least 1 when bound: a statement claims no stream without events.
    events: Vec<i64>,
    stream_of_event: Vec<i64>,
    ordinal_in_stream: Vec<i64>,
}

impl<'e> StreamColumns<'e> {
    /// Adds a stream; streams have numbers from 0, in order.
    pub(crate) fn push(&mut self, stream: &'e StreamId, expected: ExpectedVersion) {
        self.aggregate_ids.push(stream.aggregate_id().as_str());
        self.aggregate_types.push(stream.aggregate_type().as_str());
        self.expected.push(match expected {
            ExpectedVersion::Any => -1,
            ExpectedVersion::StreamExists => -2,
            ExpectedVersion::NoStream => 0,
            ExpectedVersion::Exact(version) => version.as_i64(),
        });
        self.events.push(0);
    }

    /// Assigns the next `events` events of the statement to the stream with this number.
    pub(crate) fn push_events(&mut self, stream: usize, events: usize) {
        for _ in 0..events {
            self.events[stream] += 1;
            self.stream_of_event.push(stream as i64 + 1);
            self.ordinal_in_stream.push(self.events[stream]);
        }
    }

    /// Binds the first six arrays of `append_many.sql`.
    pub(crate) fn bind_to(self, query: Query<'_>) -> Query<'_> {
        query
            .bind(self.aggregate_ids)
            .bind(self.aggregate_types)
            .bind(self.expected)
            .bind(self.events)
            .bind(self.stream_of_event)
            .bind(self.ordinal_in_stream)
    }
}

/// The events of one or more appends, in order, one array per column.
#[derive(Debug, Default)]
pub(crate) struct EventColumns<'e> {
    event_ids: Vec<Uuid>,
    event_types: Vec<&'e str>,
    schema_versions: Vec<i32>,
    occurred_at: Vec<OffsetDateTime>,
    data: Vec<&'e str>,
    correlation_ids: Vec<Uuid>,
    causation_ids: Vec<Option<Uuid>>,
    tenant_ids: Vec<Option<Uuid>>,
    actor_ids: Vec<Option<&'e str>>,
    metadata: Vec<Option<&'e str>>,
}

impl<'e> EventColumns<'e> {
    /// Adds the columns of one event, which `check_append` has passed.
    pub(crate) fn push(&mut self, event: &'e NewEvent) {
        let context = event.context();
        self.event_ids.push(event.event_id().as_uuid());
        self.event_types.push(event.event_type());
        self.schema_versions.push(i32::try_from(event.schema_version()).unwrap_or(i32::MAX));
        self.occurred_at.push(event.occurred_at());
        self.data.push(event.payload());
        self.correlation_ids.push(event.correlation_id());
        self.causation_ids.push(context.causation_id);
        self.tenant_ids.push(context.tenant_id);
        self.actor_ids.push(context.actor_id.as_deref());
        let attributes = &context.attributes;
        self.metadata.push((!attributes.is_empty()).then(|| attributes.as_json()));
    }

    /// Binds the parameters of an append to one stream, in the order of `append.sql`.
    pub(crate) fn bind_claim<'q>(self, query: Query<'q>, stream: &StreamId, expected: ExpectedVersion) -> Query<'q> {
        let query = query.bind(stream.aggregate_id().as_str()).bind(stream.aggregate_type().as_str());
        let query = self.bind_to(query);
        match expected {
            ExpectedVersion::Exact(version) if version > Version::NONE => query.bind(version.as_i64()),
            _ => query,
        }
    }

    /// Binds the ten arrays of events.
    pub(crate) fn bind_to(self, query: Query<'_>) -> Query<'_> {
        query
            .bind(self.event_ids)
            .bind(self.event_types)
            .bind(self.schema_versions)
            .bind(self.occurred_at)
            .bind(self.data)
            .bind(self.correlation_ids)
            .bind(self.causation_ids)
            .bind(self.tenant_ids)
            .bind(self.actor_ids)
            .bind(self.metadata)
    }
}
