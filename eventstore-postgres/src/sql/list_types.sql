-- Follows the insert of an append that may store a type, or a schema version, for the first time.
--
-- `is_listed` is true if a committed transaction that began before this one has listed the type. A row that this
-- transaction listed itself, also in a savepoint, has an id not below its own, and vanishes if it is rolled back.
),
listed AS (
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
)
SELECT s.event_id, s.version, s.position, s.recorded_at,
    EXISTS (
        SELECT FROM {schema}.event_types t
        WHERE t.event_type = s.event_type AND t.schema_version >= s.schema_version AND age(t.xmin) > 0) AS is_listed
FROM stored s
ORDER BY s.position
