-- ?3 and ?4 are JSON arrays of types, ?5 is a tenant, ?7 are slots; NULL matches all. The plus signs keep the query on the positions.
SELECT e.position, e.version, e.occurred_at, e.event_id, e.schema_version, s.aggregate_type, s.aggregate_id, e.event_type,
    e.payload, e.correlation_id, e.causation_id, s.tenant_id, e.actor_id, e.attributes, e.recorded_at,
    e.original_recorded_at, e.has_sealed_fields
FROM eventbus_events e LEFT JOIN eventbus_streams s USING (stream_no)
WHERE e.position > ?1 AND e.position <= ?2
  AND (?3 IS NULL OR +s.aggregate_type IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR +e.event_type IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR +s.tenant_id = ?5)
  AND (?7 IS NULL OR eventbus_has_slot(?7, s.aggregate_type, s.aggregate_id, s.tenant_id))
ORDER BY e.position LIMIT ?6
