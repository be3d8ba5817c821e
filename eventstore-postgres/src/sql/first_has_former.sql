-- Column of a page of the feed: for the first event, whether it has the former one of its stream.
, CASE WHEN e.position = (
    SELECT min(n.position)
    FROM {schema}.events n
    WHERE n.position > $1::bigint
) THEN {has_former} END
