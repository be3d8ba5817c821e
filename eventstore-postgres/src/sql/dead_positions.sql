-- The events after position $2 that are dead letters of group $1.
SELECT u.position
FROM {schema}.unfinished_deliveries u
WHERE u.consumer_group = $1::text AND u.position > $2::bigint AND u.dead_since IS NOT NULL
ORDER BY u.position
