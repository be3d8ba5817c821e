shard AS MATERIALIZED (
    SELECT s.handler, s.shard
    FROM {schema}.handler_shards s
    WHERE s.handler = $1::text
        AND s.shard = (SELECT r.shard FROM {schema}.handler_rows r WHERE r.handler = $1::text AND r.position = $2::bigint)
    FOR NO KEY UPDATE OF s
)
