-- The rows of a page of the feed with a filter: after position $1, up to position $2 that is safe, at most $6 events.
--
-- `OFFSET 0` keeps the filter out of the choice of the plan: the events are walked in the order of their positions, and
-- a filter that lets few of them through cannot turn that into a look at all of them.
--
-- $3 aggregate types, $4 event types, $5 tenant; null is all
SELECT e.*
FROM (
    SELECT *
    FROM {schema}.events w
    WHERE w.position > $1::bigint AND w.position <= $2::bigint
    ORDER BY w.position
    OFFSET 0
) e
WHERE {wanted}
LIMIT $6::bigint
