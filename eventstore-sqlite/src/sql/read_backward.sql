SELECT e.position, e.version, e.occurred_at, e.event_id, e.schema_version, s.aggregate_type, s.aggregate_id, e.event_type,
    e.payload, e.correlation_id, e.causation_id, s.tenant_id, e.actor_id, e.attributes, e.recorded_at,
    e.original_recorded_at, e.has_sealed_fields
FROM eventbus_streams s CROSS JOIN eventbus_events e USING (stream_no)
WHERE s.aggregate_id = ?1 AND s.aggregate_type = ?2 AND s.tenant_id = ?3 AND s.kind = 0 AND e.version <= ?4
ORDER BY e.version DESC LIMIT ?5
