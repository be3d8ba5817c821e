-- The version of a stream; no row if it has no events.
SELECT s.version
FROM {schema}.streams s
WHERE {is_stream}
