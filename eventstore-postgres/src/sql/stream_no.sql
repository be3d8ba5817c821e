-- The number of a stream; no row if it has no events.
SELECT s.stream_no
FROM {schema}.streams s
WHERE {is_stream}
