-- The positions of the events of a driving tag `d` that match a filter, in order, after position $1, up to `window_end.reach`.
--
-- $3 aggregate types, $4 event types, $6 slots: a bit for each; null is all
--
-- `OFFSET 0` and the scalar selects keep the filter out of the choice of the plan: the server walks the tag in the order of
-- the positions, and looks up each event by its key. An event that was taken out is passed by.
SELECT l.position
FROM (
    SELECT x.position
    FROM {schema}.tagged_events x
    WHERE x.tag_no = d.tag_no AND x.position > $1::bigint AND x.position <= window_end.reach
    ORDER BY x.position
    OFFSET 0
) l
CROSS JOIN LATERAL (
    SELECT w.stream_no, w.event_type
    FROM {schema}.events w
    WHERE w.position = l.position
    OFFSET 0
) e
WHERE (
        SELECT count(*) FROM unnest(d.others) o(tag_no)
        WHERE (SELECT true FROM {schema}.tagged_events y WHERE y.tag_no = o.tag_no AND y.position = l.position LIMIT 1)
    ) = cardinality(d.others)
    AND ($4::text[] IS NULL OR e.event_type = ANY ($4::text[]))
    AND ($3::text[] IS NULL OR (SELECT s.aggregate_type FROM {schema}.streams s WHERE s.stream_no = e.stream_no) = ANY ($3::text[]))
    AND ($6::bytea IS NULL OR get_bit($6::bytea, (e.stream_no & 255)::integer) = 1)
