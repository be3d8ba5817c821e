-- The lowest of the versions from $2 to $3 of stream $1 that has no event; no row if each has one.
SELECT v.version
FROM generate_series($2::bigint, $3::bigint) v (version)
WHERE (
    SELECT e.version
    FROM {schema}.events e
    WHERE e.stream_no = $1::bigint AND e.version = v.version
    LIMIT 1
) IS NULL
ORDER BY v.version
LIMIT 1
