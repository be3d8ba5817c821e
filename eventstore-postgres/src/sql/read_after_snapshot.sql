-- The rows of a page of one stream after its snapshot; at most $5 events.
SELECT w.*
FROM {schema}.events w
WHERE w.stream_no = f.stream_no AND w.version > coalesce(f.snapshot_version, 0)
ORDER BY w.version
LIMIT $5::bigint
