-- Counts the events of the next streams: from version $2 of stream $1 on, up to stream $3.
--
-- At most $4 streams, up to the one that reaches $5 versions, of which it counts at most $5: a window is short, however
-- many events a stream has. The table of streams leads, so that a stream that lost all its events is found too. Each
-- count walks the versions of one stream along the index.
--
-- A stream begins behind the version up to which its events were archived.
SELECT s.stream_no, s.first, s.last, s.version, (
    SELECT count(*)
    FROM {schema}.events e
    WHERE e.stream_no = s.stream_no AND e.version >= s.first AND e.version <= s.last
)
FROM (
    SELECT w.stream_no, w.first, least(w.version, w.first + $5::bigint - 1) AS last, w.version,
        sum(w.version - w.first + 1) OVER (ORDER BY w.stream_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS versions_before
    FROM (
        SELECT r.stream_no, r.version,
            greatest(r.archived_through + 1, CASE WHEN r.stream_no = $1::bigint THEN $2::bigint ELSE 1 END) AS first
        FROM {schema}.streams r
        WHERE r.stream_no >= $1::bigint AND r.stream_no <= $3::bigint AND r.kind = 0
        ORDER BY r.stream_no
        LIMIT $4::bigint
    ) w
) s
WHERE s.versions_before IS NULL OR s.versions_before < $5::bigint
ORDER BY s.stream_no
