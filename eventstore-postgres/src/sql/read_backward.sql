-- A page of one stream, newer events first: from version $3 back, itself included, at most $4 events.
SELECT {record}
FROM {schema}.events e
WHERE e.aggregate_id = $1::text AND e.aggregate_type = $2::text AND e.version <= $3::bigint
ORDER BY e.version DESC
LIMIT $4::bigint
