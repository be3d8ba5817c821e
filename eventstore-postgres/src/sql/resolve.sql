-- Why an append stored nothing, or whether it did: where the stream is, and each of its event ids.
--
-- Keep it one statement, which is one snapshot: events first and streams later would see false conflicts.
--
-- $1 aggregate id, $2 aggregate type, $3 the event ids
SELECT
    coalesce(s.version, 0) AS actual,
    {record}
FROM unnest($3::uuid[]) WITH ORDINALITY w(event_id, ordinal)
LEFT JOIN {schema}.events e ON e.event_id = w.event_id
LEFT JOIN {schema}.streams s ON s.aggregate_id = $1::text AND s.aggregate_type = $2::text
ORDER BY w.ordinal
