-- What follows the insert of an append that may store a type, or a schema version, for the first time.
--
-- Each row says whether its type is listed for good: by a transaction that began before this one and is committed. What
-- this one listed itself, in savepoints too, has no smaller id than it, and goes if it is rolled back.
),
listed AS (
    INSERT INTO {schema}.event_types (event_type, schema_version, position)
    SELECT found.event_type, found.schema_version, found.position
    FROM (
        SELECT s.event_type, max(s.schema_version) AS schema_version, min(s.position) AS position
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
