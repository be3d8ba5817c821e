-- The rows of a page of one stream, older events first: from version $3 on, itself included, at most $4 events.
SELECT w.*
FROM {schema}.events w
WHERE w.aggregate_id = $1::text AND w.aggregate_type = $2::text AND w.version >= $3::bigint
ORDER BY w.version
LIMIT $4::bigint
