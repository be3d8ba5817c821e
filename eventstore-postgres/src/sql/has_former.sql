-- Columns of a page of the feed: the number of the stream, and for the first event whether the one before it in its
-- stream is there or was archived.
, e.stream_no, CASE WHEN e.position = (
    SELECT min(n.position)
    FROM {schema}.events n
    WHERE n.position > $1::bigint
) THEN coalesce((
    SELECT true
    FROM {schema}.events f
    WHERE f.stream_no = e.stream_no AND f.version = e.version - 1
    LIMIT 1
), (
    SELECT s.archived_through >= e.version - 1
    FROM {schema}.streams s
    WHERE s.stream_no = e.stream_no
)) END
