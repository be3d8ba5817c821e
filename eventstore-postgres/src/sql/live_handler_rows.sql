-- The rows of shards that wait or are held. $1 and $2 handlers and numbers of the shards
SELECT r.handler, r.shard, r.position, r.attempts, r.dead_since, r.is_held
FROM unnest($1::text[], $2::smallint[]) AS w (handler, shard)
CROSS JOIN LATERAL (
    SELECT *
    FROM {schema}.handler_rows r
    WHERE r.handler = w.handler AND r.shard = w.shard AND (r.dead_since IS NULL OR r.is_held)
    OFFSET 0 -- a look-up for each, as the plan may be kept from a time of few rows
) r
ORDER BY r.handler, r.shard, r.position
