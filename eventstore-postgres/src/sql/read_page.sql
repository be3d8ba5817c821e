-- A page of the feed: after position $1, up to position $2 that is safe, at most $3 events.
SELECT {record}
FROM {schema}.events e
WHERE e.position > $1::bigint AND e.position <= $2::bigint
ORDER BY e.position
LIMIT $3::bigint
