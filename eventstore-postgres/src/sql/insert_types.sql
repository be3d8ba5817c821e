    INSERT INTO {schema}.event_types (event_type, schema_version, first_position)
    SELECT found.event_type, found.schema_version, found.first_position
    FROM (
        SELECT s.event_type, max(s.schema_version) AS schema_version, min(s.position) AS first_position
        FROM stored s
        GROUP BY s.event_type
    ) found
    WHERE NOT EXISTS (
        SELECT FROM {schema}.event_types t
        WHERE t.event_type = found.event_type AND t.schema_version >= found.schema_version)
