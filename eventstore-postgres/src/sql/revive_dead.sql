-- The dead letter that the event at position $2 is for group $1 waits from now on, with tries $3; no row if it is none.
UPDATE {schema}.unfinished_deliveries u
SET tries = $3::text, dead_since = NULL
WHERE u."group" = $1::text AND u.position = $2::bigint AND u.dead_since IS NOT NULL
RETURNING u.position
