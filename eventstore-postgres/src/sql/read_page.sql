-- The rows of a page of the feed: after position $1, up to position $2 that is safe, at most $3 events.
SELECT w.*
FROM {schema}.events w
WHERE w.position > $1::bigint AND w.position <= $2::bigint
ORDER BY w.position
LIMIT $3::bigint
