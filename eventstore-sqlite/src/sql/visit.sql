SELECT e.version, e.event_id, e.event_type, e.schema_version, e.has_sealed_fields, e.payload
FROM eventbus_streams s CROSS JOIN eventbus_events e USING (stream_no)
WHERE s.aggregate_id = ?1 AND s.aggregate_type = ?2 AND s.tenant_id = ?3 AND s.kind = 0 AND e.version >= ?4
ORDER BY e.version LIMIT ?5
