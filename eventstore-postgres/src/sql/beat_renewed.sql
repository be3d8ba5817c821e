-- Locks the shards in order, as saves do, and waits for each: a shard that a save has locked is not lost. Member rows are
-- locked last.
--
-- $7 microseconds for which the shards are renewed
owned AS MATERIALIZED (
    SELECT s.handler, s.shard, s.epoch
    FROM unnest($4::text[], $5::smallint[], $6::bigint[]) AS o (handler, shard, epoch)
    JOIN {schema}.handler_shards s
        ON s.handler = o.handler AND s.shard = o.shard AND s.epoch = o.epoch AND s.owner = $1::text
    ORDER BY s.handler, s.shard
    FOR NO KEY UPDATE OF s
), held AS (
    UPDATE {schema}.handler_shards s
    SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + $7::bigint * interval '1 microsecond'
    FROM owned o
    WHERE s.handler = o.handler AND s.shard = o.shard AND s.epoch = o.epoch AND s.owner = $1::text
    RETURNING s.handler, s.shard, s.changes
), seen AS (
    UPDATE {schema}.handler_members m SET seen_at = clock_timestamp() WHERE m.name = $1::text
)
