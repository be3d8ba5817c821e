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
LEFT JOIN {schema}.streams s
    ON s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type AND s.tenant_id = w.tenant_id AND s.kind = 0
LEFT JOIN {schema}.events e ON e.event_id = w.event_id AND e.stream_no = s.stream_no
ORDER BY w.ordinal
