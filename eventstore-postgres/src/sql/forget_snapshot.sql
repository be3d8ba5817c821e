-- Removes the snapshot of a stream for fold $4.
DELETE FROM {schema}.snapshots n
WHERE n.fold = $4::text AND n.stream_no = (SELECT s.stream_no FROM {schema}.streams s WHERE {is_stream})
RETURNING n.stream_no
