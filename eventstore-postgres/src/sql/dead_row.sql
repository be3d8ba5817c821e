-- The dead letter of handler $1 at position $2.
SELECT r.handler, r.position, r.attempts, r.dead_since, r.is_held
FROM {schema}.handler_rows r
WHERE r.handler = $1::text AND r.position = $2::bigint AND r.dead_since IS NOT NULL
