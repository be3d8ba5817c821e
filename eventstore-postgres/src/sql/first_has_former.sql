-- Columns of a page of the feed: the number of the stream, and for the first event whether it has the former one.
, e.stream_no, CASE WHEN e.position = (
    SELECT min(n.position)
    FROM {schema}.events n
    WHERE n.position > $1::bigint
) THEN {has_former} END
