-- The version of a stream; no row if it has no events.
SELECT s.version
FROM {schema}.streams s
WHERE s.aggregate_id = $1::text AND s.aggregate_type = $2::text
