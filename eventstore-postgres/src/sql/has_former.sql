, e.stream_no, CASE WHEN e.bytes_before IS NULL THEN (
    SELECT true
    FROM {schema}.events f
    WHERE f.stream_no = e.stream_no AND f.version = e.version - 1
    LIMIT 1
) END
