-- The position of the last event of a window: at most $3 positions from the next event after $1 on, up to $2.
--
-- Null if there is no event. Positions without events before the next event do not count.
SELECT max(e.position)
FROM {schema}.events e
WHERE e.position > $1::bigint AND e.position <= least($2::bigint, (
    SELECT min(f.position) + $3::bigint - 1
    FROM {schema}.events f
    WHERE f.position > $1::bigint
))
