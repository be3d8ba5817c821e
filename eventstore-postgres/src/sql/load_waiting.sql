-- The waiting deliveries of group $1.
SELECT u.position, u.attempts
FROM {schema}.unfinished_deliveries u
WHERE u.consumer_group = $1::text AND u.dead_since IS NULL
ORDER BY u.position
