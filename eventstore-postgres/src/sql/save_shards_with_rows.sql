-- Saves the progress of shards: of each that the member owns in its epoch, all or nothing. A row for each shard whose
-- progress is saved; a row without a shard if the store does not have the last event that the member read, and then
-- nothing is saved.
--
-- Joint saves of a former owner and of its successors lock several shards: in one order, or they would wait for each
-- other. The rows of a shard are written under its lock alone, also by `replay_dead_row.sql` and `discard_dead_row.sql`.
--
-- $1 member, $2 and $3 position and id of the last event that it read, $4 and $5 handlers and numbers of the shards,
-- $6 epochs, $7 checkpoints, $8 waiting, $9 started, $10 whether an event has ended, $11 JSON: left types, null for one
-- that is left no more, $12 whether the shard is released, $13 to $18 the rows to write: handlers, shards, positions,
-- attempts, times of death, whether they are held, $19 to $21 the rows to delete, none of which is written: handlers,
-- shards, positions
{planned_once}WITH {is_last_read}, wanted AS MATERIALIZED (
    SELECT w.handler, w.shard, w.epoch, w.checkpoint, w.waiting::bigint[] AS waiting, w.started::bigint[] AS started,
        w.has_progressed, w.left_types::jsonb AS left_types, w.is_release
    FROM unnest($4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::boolean[], $11::text[],
            $12::boolean[])
        AS w (handler, shard, epoch, checkpoint, waiting, started, has_progressed, left_types, is_release)
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
        unclean = CASE WHEN w.has_progressed THEN 0 ELSE s.unclean END,
        left_types = jsonb_strip_nulls(s.left_types || w.left_types),
        owner = CASE WHEN w.is_release THEN NULL ELSE s.owner END,
        expires_at = CASE WHEN w.is_release THEN '-infinity' ELSE s.expires_at END
    FROM held h
    JOIN wanted w ON w.handler = h.handler AND w.shard = h.shard
    WHERE s.handler = h.handler AND s.shard = h.shard AND s.epoch = w.epoch AND s.owner = $1::text
    RETURNING s.handler, s.shard
), written AS (
    INSERT INTO {schema}.handler_rows (handler, shard, position, attempts, dead_since, is_held)
    SELECT r.handler, r.shard, r.position, r.attempts, r.dead_since, r.is_held
    FROM unnest($13::text[], $14::smallint[], $15::bigint[], $16::text[], $17::timestamptz[], $18::boolean[])
        AS r (handler, shard, position, attempts, dead_since, is_held)
    JOIN saved s ON s.handler = r.handler AND s.shard = r.shard
    ON CONFLICT (handler, position) DO UPDATE
    SET attempts = excluded.attempts, dead_since = excluded.dead_since, is_held = excluded.is_held
), finished AS (
    DELETE FROM {schema}.handler_rows r
    USING unnest($19::text[], $20::smallint[], $21::bigint[]) AS f (handler, shard, position), saved s
    WHERE s.handler = f.handler AND s.shard = f.shard AND r.handler = f.handler AND r.position = f.position
)
SELECT s.handler, s.shard FROM saved s
UNION ALL
SELECT NULL, NULL FROM read r WHERE NOT r.is_stored
