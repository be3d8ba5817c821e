-- Returns 1 if the event before the one at position ?1 is there, in its stream.
SELECT EXISTS (
    SELECT 1
    FROM eventbus_events e JOIN eventbus_events f ON f.stream_no = e.stream_no AND f.version = e.version - 1
    WHERE e.position = ?1
)
