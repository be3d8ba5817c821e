-- The dead letters after the one of time $1, position $2 and group $3, from the first if these are null; at most $4.
SELECT u.consumer_group, u.position, u.attempts, u.dead_since
FROM {schema}.unfinished_deliveries u
WHERE u.dead_since IS NOT NULL
  AND ($1::timestamptz IS NULL
    OR (u.dead_since, u.position, u.consumer_group) > ($1::timestamptz, $2::bigint, $3::text COLLATE "C"))
ORDER BY u.dead_since, u.position, u.consumer_group
LIMIT $4::bigint
