-- Makes the dead letter at position $2 of group $1 a waiting delivery, with attempts $3; no row if there is none.
UPDATE {schema}.unfinished_deliveries u
SET attempts = $3::text, dead_since = NULL
WHERE u.consumer_group = $1::text AND u.position = $2::bigint AND u.dead_since IS NOT NULL
RETURNING u.position
