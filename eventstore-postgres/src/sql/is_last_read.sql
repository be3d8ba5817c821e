read AS MATERIALIZED (
    SELECT $2::bigint IS NULL
        OR coalesce((SELECT e.event_id FROM {schema}.events e WHERE e.position = $2::bigint) = $3::uuid, false) AS is_stored
)
