-- ?3 and ?4 are JSON arrays of types, ?5 is a tenant; NULL matches all. The plus signs keep the query on the positions.
SELECT position, version, occurred_at, event_id, schema_version, aggregate_type, aggregate_id, event_type, payload,
    correlation_id, causation_id, tenant_id, actor_id, attributes, recorded_at
FROM eventbus_events
WHERE position > ?1 AND position <= ?2
  AND (?3 IS NULL OR +aggregate_type IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR +event_type IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR +tenant_id = ?5)
ORDER BY position LIMIT ?6
