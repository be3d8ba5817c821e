-- The number of dead letters, up to $1.
SELECT count(*)
FROM (SELECT FROM {schema}.unfinished_deliveries u WHERE u.dead_since IS NOT NULL LIMIT $1) dead
