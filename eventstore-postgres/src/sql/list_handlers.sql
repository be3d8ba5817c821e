-- All handlers, a row for each of their shards.
WITH counts AS MATERIALIZED (
    SELECT r.handler, count(*) FILTER (WHERE r.dead_since IS NULL) AS waiting,
        count(*) FILTER (WHERE r.dead_since IS NOT NULL) AS dead
    FROM {schema}.handler_rows r
    GROUP BY r.handler
)
SELECT h.note::text, EXISTS (SELECT FROM {schema}.paused_groups p WHERE p.name = h.note ->> 'group'),
    coalesce(c.waiting, 0), coalesce(c.dead, 0), s.shard, CASE WHEN NOT {is_free_shard} THEN s.owner END, s.epoch,
    s.checkpoint, cardinality(s.waiting)::bigint, cardinality(s.started)::bigint, s.left_types::text
FROM {schema}.handlers h
LEFT JOIN counts c ON c.handler = h.name
JOIN {schema}.handler_shards s ON s.handler = h.name
ORDER BY h.name, s.shard
