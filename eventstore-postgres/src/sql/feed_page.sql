-- The end of the feed and a page of events after $1, in this order: see migration 6. $2 event types, $3 slots, a bit for
-- each; null is all; $4 the most events.
SELECT p.position, p.version, p.occurred_at, p.event_id, p.correlation_id, p.schema_version, p.event_type, p.payload,
    p.causation_id, p.actor_id, p.attributes, p.recorded_at, p.original_recorded_at, p.has_sealed_fields, p.stream_no,
    p.has_former, p.head, p.has_open_appends, p.is_standby, p.reach
FROM {schema}.read_feed_page($1::bigint, $2::text[], $3::bytea, $4::bigint, '{schema}') p
