-- Follows the insert of an append that may store a type, or a schema version, for the first time.
--
-- `is_listed` is true if a committed transaction that began before this one has listed the type. A row that this
-- transaction listed itself, also in a savepoint, has an id not below its own, and vanishes if it is rolled back.
),
listed AS (
    {insert_types}
)
SELECT s.event_id, s.version, s.position, s.recorded_at, s.stream_no,
    EXISTS (
        SELECT FROM {schema}.event_types t
        WHERE t.event_type = s.event_type AND t.schema_version >= s.schema_version AND age(t.xmin) > 0) AS is_listed
FROM stored s
ORDER BY s.position
