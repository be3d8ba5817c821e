-- The number of dead letters.
SELECT count(*)
FROM {schema}.unfinished_deliveries u
WHERE u.dead_since IS NOT NULL
