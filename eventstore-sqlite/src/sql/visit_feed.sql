-- The rows of read_feed_filtered.sql, with the columns that a fold needs.
SELECT e.position, e.stream_no, e.event_type, e.schema_version, e.has_sealed_fields, e.payload, s.aggregate_type,
    s.aggregate_id, s.tenant_id
FROM eventbus_events e LEFT JOIN eventbus_streams s USING (stream_no)
WHERE e.position > ?1 AND e.position <= ?2
  AND (?3 IS NULL OR +s.aggregate_type IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR +e.event_type IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR +s.tenant_id = ?5)
  AND (?7 IS NULL OR eventbus_has_slot(?7, s.aggregate_type, s.aggregate_id, s.tenant_id))
ORDER BY e.position LIMIT ?6
