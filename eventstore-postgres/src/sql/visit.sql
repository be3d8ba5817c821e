-- What a fold needs of the events of one stream, older events first: from version $4 on, itself included, at most $5 events.
SELECT e.version, e.event_id, {fields}
FROM {schema}.events e
WHERE e.stream_no = (SELECT s.stream_no FROM {schema}.streams s WHERE {is_stream}) AND e.version >= $4::bigint
ORDER BY e.version
LIMIT $5::bigint
