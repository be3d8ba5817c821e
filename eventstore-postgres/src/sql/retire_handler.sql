-- Deletes handler $1 with its shards and rows, unless a live process owns one of its shards. The number of its rows that
-- waited; no row if nothing is deleted.
--
-- Locks the handler before its shards, in order, as `declare_handlers.sql` does.
WITH known AS MATERIALIZED (
    SELECT h.name FROM {schema}.handlers h WHERE h.name = $1::text FOR UPDATE OF h
), shards AS MATERIALIZED (
    SELECT s.handler, s.shard, {is_free_shard} AS is_free
    FROM known k
    JOIN {schema}.handler_shards s ON s.handler = k.name
    ORDER BY s.shard
    FOR UPDATE OF s
), retired AS MATERIALIZED (
    SELECT k.name FROM known k WHERE NOT EXISTS (SELECT FROM shards s WHERE NOT s.is_free)
), deleted AS (
    DELETE FROM {schema}.handlers h USING retired r WHERE h.name = r.name
), deleted_shards AS (
    DELETE FROM {schema}.handler_shards s USING retired r WHERE s.handler = r.name
), deleted_rows AS (
    DELETE FROM {schema}.handler_rows d USING retired r WHERE d.handler = r.name
    RETURNING d.dead_since
)
SELECT (SELECT count(*) FROM deleted_rows d WHERE d.dead_since IS NULL) FROM retired
