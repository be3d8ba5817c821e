-- Removes the snapshots of fold $2 among the next 500 behind stream $1, and returns the last of their streams; no row
-- if there are none.
WITH batch AS MATERIALIZED (
    SELECT n.stream_no
    FROM {schema}.snapshots n
    WHERE n.stream_no > $1::bigint
    ORDER BY n.stream_no
    LIMIT 500
),
removed AS (
    DELETE FROM {schema}.snapshots n
    WHERE n.stream_no > $1::bigint AND n.stream_no <= (SELECT max(b.stream_no) FROM batch b) AND n.fold = $2::text
    RETURNING n.stream_no
)
SELECT max(b.stream_no), (SELECT count(*) FROM removed)
FROM batch b
HAVING count(*) > 0
