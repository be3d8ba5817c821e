-- Deletes the dead letter at position $2 of group $1; no row if there is none.
DELETE FROM {schema}.unfinished_deliveries u
WHERE u.consumer_group = $1::text AND u.position = $2::bigint AND u.dead_since IS NOT NULL
RETURNING u.position
