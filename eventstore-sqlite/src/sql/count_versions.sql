-- Counts the events of the next streams: from version ?2 of stream ?1 on, up to stream ?3.
--
-- At most ?4 streams, up to the one that reaches ?5 versions, of which it counts at most ?5: a window is short, however
-- many events a stream has. The table of streams leads, so that a stream that lost all its events is found too.
--
-- A stream begins behind the version up to which its events were archived.
SELECT s.stream_no, s.first, s.last, s.version, (
    SELECT count(*)
    FROM eventbus_events e
    WHERE e.stream_no = s.stream_no AND e.version >= s.first AND e.version <= s.last
)
FROM (
    SELECT w.stream_no, w.first, min(w.version, w.first + ?5 - 1) AS last, w.version,
        sum(w.version - w.first + 1) OVER (ORDER BY w.stream_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
            AS versions_before
    FROM (
        SELECT r.stream_no, r.version,
            max(r.archived_through + 1, CASE WHEN r.stream_no = ?1 THEN ?2 ELSE 1 END) AS first
        FROM eventbus_streams r
        WHERE r.stream_no >= ?1 AND r.stream_no <= ?3 AND r.kind = 0
        ORDER BY r.stream_no
        LIMIT ?4
    ) w
) s
WHERE s.versions_before IS NULL OR s.versions_before < ?5
ORDER BY s.stream_no
