-- The state of appends: the stored event for each of their event ids, if any, and the version of its stream.
--
-- Invariant: one statement, so one snapshot: reading events first and streams later would report false conflicts.
--
-- $1 the event ids, $2 to $4 for each the aggregate id, aggregate type and tenant of the stream of its append.
SELECT
    coalesce(s.version, 0) AS actual,
    {record}
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[])
    WITH ORDINALITY w(event_id, aggregate_id, aggregate_type, tenant_id, ordinal)
LEFT JOIN LATERAL (
    SELECT s.stream_no, s.version
    FROM {schema}.streams s
    WHERE s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type AND s.tenant_id = w.tenant_id AND s.kind = 0
    OFFSET 0 -- a look-up for each, as the plan may be kept from a time of few streams
) s ON true
LEFT JOIN LATERAL (
    SELECT e.*
    FROM {schema}.events e
    WHERE e.event_id = w.event_id AND e.stream_no = s.stream_no
    OFFSET 0
) e ON true
ORDER BY w.ordinal
