-- The rows of a page of one stream, newer events first: from version $4 back, itself included, at most $5 events.
SELECT w.*
FROM {schema}.events w
WHERE w.stream_no = (SELECT s.stream_no FROM {schema}.streams s WHERE {is_stream}) AND w.version <= $4::bigint
ORDER BY w.version DESC
LIMIT $5::bigint
