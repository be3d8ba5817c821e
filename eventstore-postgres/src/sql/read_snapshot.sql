-- The snapshot of a stream for fold $4, and the first page of the events after it: {page}. One row if there are no such
-- events, none if there is no stream. Only the first row has the data.
--
-- A version that the stream does not have is damage. The two come from one snapshot of the database, so that no event
-- is missing between them.
SELECT p.*, f.snapshot_version, CASE WHEN row_number() OVER (ORDER BY p.version) = 1 THEN f.data END
FROM (
    SELECT s.stream_no, n.version AS snapshot_version, n.data
    FROM {schema}.streams s
    LEFT JOIN LATERAL (
        SELECT n.version, n.data
        FROM {schema}.snapshots n
        WHERE n.stream_no = s.stream_no AND n.fold = $4::text AND n.version BETWEEN 1 AND s.version
        OFFSET 0
    ) n ON true
    WHERE {is_stream}
) f
LEFT JOIN LATERAL (
{page}
) p ON true
ORDER BY p.version
