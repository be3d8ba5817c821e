-- Saves checkpoints and lists of shards that have no rows, no left types and no release to save: see
-- `save_shards_with_rows.sql`.
--
-- $1 member, $2 and $3 position and id of the last event that it read, $4 and $5 handlers and numbers of the shards,
-- $6 epochs, $7 checkpoints, $8 waiting, $9 started, $10 whether an event has ended
{planned_once}WITH {is_last_read}, wanted AS MATERIALIZED (
    SELECT w.handler, w.shard, w.epoch, w.checkpoint, w.waiting::bigint[] AS waiting, w.started::bigint[] AS started,
        w.has_progressed
    FROM unnest($4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::boolean[])
        AS w (handler, shard, epoch, checkpoint, waiting, started, has_progressed)
), held AS MATERIALIZED (
    SELECT s.handler, s.shard
    FROM wanted w
    JOIN {schema}.handler_shards s
        ON s.handler = w.handler AND s.shard = w.shard AND s.epoch = w.epoch AND s.owner = $1::text
    WHERE (SELECT r.is_stored FROM read r)
    ORDER BY s.handler, s.shard
    FOR NO KEY UPDATE OF s
), saved AS (
    UPDATE {schema}.handler_shards s
    SET checkpoint = w.checkpoint, waiting = w.waiting, started = w.started,
        unclean = CASE WHEN w.has_progressed THEN 0 ELSE s.unclean END
    FROM held h
    JOIN wanted w ON w.handler = h.handler AND w.shard = h.shard
    WHERE s.handler = h.handler AND s.shard = h.shard AND s.epoch = w.epoch AND s.owner = $1::text
    RETURNING s.handler, s.shard
)
SELECT s.handler, s.shard FROM saved s
UNION ALL
SELECT NULL, NULL FROM read r WHERE NOT r.is_stored
