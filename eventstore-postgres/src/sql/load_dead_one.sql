-- The dead letter at position $2 of group $1.
SELECT u.consumer_group, u.position, u.attempts, u.dead_since
FROM {schema}.unfinished_deliveries u
WHERE u.consumer_group = $1::text AND u.position = $2::bigint AND u.dead_since IS NOT NULL
