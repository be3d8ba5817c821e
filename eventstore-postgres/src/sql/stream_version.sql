-- How many events a stream has; no row if it has none.
SELECT s.version
FROM {schema}.streams s
WHERE s.aggregate_id = $1::text AND s.aggregate_type = $2::text
