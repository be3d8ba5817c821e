-- Deletes the oldest commands, at most $2 of those handled longer ago than $1 microseconds, and returns their number.
--
-- Skips the rows that a concurrent statement deletes.
WITH forgotten AS (
    DELETE FROM {schema}.commands d
    WHERE d.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM {schema}.commands o
        WHERE o.handled_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
        ORDER BY o.handled_at
        LIMIT $2::bigint
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM forgotten
