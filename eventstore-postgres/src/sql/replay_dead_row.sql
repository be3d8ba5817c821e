-- Lets the dead letter of handler $1 at position $2 wait again, with attempts $3, and counts the change. A row if it is
-- a dead letter.
--
-- Locks the shard before the row, as saves do.
WITH {shard_of_row}, replayed AS (
    UPDATE {schema}.handler_rows r
    SET attempts = $3::text, dead_since = NULL, is_held = false
    FROM shard h
    WHERE r.handler = h.handler AND r.position = $2::bigint AND r.dead_since IS NOT NULL
    RETURNING r.position
)
UPDATE {schema}.handler_shards s
SET changes = s.changes + 1
FROM shard h, replayed
WHERE s.handler = h.handler AND s.shard = h.shard
RETURNING s.changes
