-- The rows of shards that wait or are held. $1 and $2 handlers and numbers of the shards
SELECT r.handler, r.shard, r.position, r.attempts, r.dead_since, r.is_held
FROM unnest($1::text[], $2::smallint[]) AS w (handler, shard)
JOIN {schema}.handler_rows r ON r.handler = w.handler AND r.shard = w.shard
WHERE r.dead_since IS NULL OR r.is_held
ORDER BY r.handler, r.shard, r.position
