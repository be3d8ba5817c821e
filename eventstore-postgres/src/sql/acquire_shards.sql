-- Acquires shards that are free or the member's own. Shards whose rows are locked are in use, and left out.
--
-- $1 member, $2 and $3 handlers and numbers of the shards, $4 microseconds
{planned_once}WITH free AS MATERIALIZED (
    SELECT s.handler, s.shard, s.owner IS NOT NULL AND s.owner <> $1::text AS has_crashed
    FROM unnest($2::text[], $3::smallint[]) AS w (handler, shard)
    JOIN {schema}.handler_shards s ON s.handler = w.handler AND s.shard = w.shard
    WHERE s.owner = $1::text OR {is_free_shard}
    ORDER BY s.handler, s.shard
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE {schema}.handler_shards s
SET owner = $1::text, epoch = s.epoch + 1, unclean = s.unclean + f.has_crashed::integer,
    renewed_at = clock_timestamp(), expires_at = clock_timestamp() + $4::bigint * interval '1 microsecond'
FROM free f
WHERE s.handler = f.handler AND s.shard = f.shard
RETURNING s.handler, s.shard, s.epoch, f.has_crashed, s.unclean, s.changes, s.checkpoint, s.waiting, s.started,
    s.left_types::text
