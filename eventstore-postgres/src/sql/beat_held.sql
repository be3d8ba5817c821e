held AS MATERIALIZED (
    SELECT s.handler, s.shard, s.changes
    FROM unnest($4::text[], $5::smallint[], $6::bigint[]) AS o (handler, shard, epoch)
    JOIN {schema}.handler_shards s
        ON s.handler = o.handler AND s.shard = o.shard AND s.epoch = o.epoch AND s.owner = $1::text
)
