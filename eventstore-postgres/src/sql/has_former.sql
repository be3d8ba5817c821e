-- Whether the event before `e` in its stream is there or was archived.
coalesce((
    SELECT true
    FROM {schema}.events f
    WHERE f.stream_no = e.stream_no AND f.version = e.version - 1
    LIMIT 1
), (
    SELECT s.archived_through >= e.version - 1
    FROM {schema}.streams s
    WHERE s.stream_no = e.stream_no
))
