INSERT INTO eventbus_event_types (event_type, schema_version, first_position)
VALUES (?1, ?2, ?3)
ON CONFLICT (event_type) DO UPDATE SET schema_version = excluded.schema_version
WHERE excluded.schema_version > eventbus_event_types.schema_version
