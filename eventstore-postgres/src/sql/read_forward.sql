-- The rows of a page of one stream, older events first: from version $4 on, itself included, at most $5 events.
SELECT w.*
FROM {schema}.events w
WHERE w.stream_no = (SELECT s.stream_no FROM {schema}.streams s WHERE {is_stream}) AND w.version >= $4::bigint
ORDER BY w.version
LIMIT $5::bigint
