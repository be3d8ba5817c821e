SELECT event_type, schema_version, first_position
FROM eventbus_event_types
ORDER BY event_type
