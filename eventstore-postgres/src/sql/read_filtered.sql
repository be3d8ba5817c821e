-- The rows of a page of the feed with a filter: after position $1, up to position $2 that is safe, at most $7 events.
--
-- `OFFSET 0` keeps the filter out of the choice of the plan: the server walks the events in the order of their
-- positions, and cannot turn a filter that matches few of them into a scan of all.
--
-- $3 aggregate types, $4 event types, $5 tenant, $6 slots; `{wanted}` has those that are given
SELECT e.*
FROM (
    SELECT *
    FROM {schema}.events w
    WHERE w.position > $1::bigint AND w.position <= $2::bigint
    ORDER BY w.position
    OFFSET 0
) e
WHERE {wanted}
ORDER BY e.position
LIMIT $7::bigint
