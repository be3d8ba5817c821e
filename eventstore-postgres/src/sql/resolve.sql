-- The state of appends: the stored event for each of their event ids, if any, and the version of its stream.
--
-- Invariant: one statement, so one snapshot: reading events first and streams later would report false conflicts.
--
-- $1 the event ids, $2 and $3 for each the aggregate id and type of the stream it was to be appended to
SELECT
    coalesce(s.version, 0) AS actual,
    {record}
FROM unnest($1::uuid[], $2::text[], $3::text[])
    WITH ORDINALITY w(event_id, aggregate_id, aggregate_type, ordinal)
LEFT JOIN {schema}.events e ON e.event_id = w.event_id
LEFT JOIN {schema}.streams s ON s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type
ORDER BY w.ordinal
