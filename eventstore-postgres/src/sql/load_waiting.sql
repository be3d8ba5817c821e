-- The waiting deliveries of group $1.
SELECT u.position, u.tries
FROM {schema}.unfinished_deliveries u
WHERE u."group" = $1::text AND u.dead_since IS NULL
ORDER BY u.position
