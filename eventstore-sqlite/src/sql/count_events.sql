SELECT count(*)
FROM eventbus_events e LEFT JOIN eventbus_streams s USING (stream_no)
WHERE e.position > ?1 AND e.position <= ?2
  AND (?3 IS NULL OR +s.aggregate_type IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR +e.event_type IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR +s.tenant_id = ?5)
  AND (?6 IS NULL OR eventbus_has_slot(?6, s.aggregate_type, s.aggregate_id, s.tenant_id))
