read AS MATERIALIZED (
    SELECT $2::bigint IS NULL
        OR EXISTS (SELECT FROM {schema}.events e WHERE e.position = $2::bigint AND e.event_id = $3::uuid) AS is_stored
)
