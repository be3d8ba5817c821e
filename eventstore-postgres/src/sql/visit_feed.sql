-- What a fold needs of the events of the feed with a filter: after position $1, up to position $2 that is safe, at most $6
-- events. `OFFSET 0` as in `read_filtered.sql`.
--
-- $3 aggregate types, $4 event types, $5 tenant; null is all
SELECT e.position, {fields}
FROM (
    SELECT *
    FROM {schema}.events w
    WHERE w.position > $1::bigint AND w.position <= $2::bigint
    ORDER BY w.position
    OFFSET 0
) e
WHERE {wanted}
ORDER BY e.position
LIMIT $6::bigint
