-- A page of one stream, older events first: from version $3 on, itself included, at most $4 events.
SELECT {record}
FROM {schema}.events e
WHERE e.aggregate_id = $1::text AND e.aggregate_type = $2::text AND e.version >= $3::bigint
ORDER BY e.version
LIMIT $4::bigint
