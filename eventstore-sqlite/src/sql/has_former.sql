-- Returns 1 if the event before the one at position ?1 is there, in its stream, or was archived.
SELECT EXISTS (
    SELECT 1
    FROM eventbus_events e JOIN eventbus_events f ON f.stream_no = e.stream_no AND f.version = e.version - 1
    WHERE e.position = ?1
) OR EXISTS (
    SELECT 1
    FROM eventbus_events e JOIN eventbus_streams s USING (stream_no)
    WHERE e.position = ?1 AND s.archived_through >= e.version - 1
)
