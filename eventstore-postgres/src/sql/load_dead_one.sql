-- The dead letter at position $2 of group $1.
SELECT u."group", u.position, u.tries, u.dead_since
FROM {schema}.unfinished_deliveries u
WHERE u."group" = $1::text AND u.position = $2::bigint AND u.dead_since IS NOT NULL
