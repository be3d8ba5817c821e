-- The stored event types: their highest schema versions and first positions.
SELECT t.event_type, max(t.schema_version), min(t.first_position)
FROM {schema}.event_types t
GROUP BY t.event_type
ORDER BY t.event_type
