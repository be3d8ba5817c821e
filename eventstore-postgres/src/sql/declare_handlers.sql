-- Adds handlers with their shards, and changes notes; the types that a changed note adds are left before each shard of
-- its handler. A row for each handler that was added or changed; the others have another note by now, or were added
-- meanwhile.
--
-- Locks handlers before shards, both in order, as `retire_handler.sql` does.
--
-- $1 names, $2 notes as they were read, null for new handlers, $3 notes, $4 numbers of shards, $5 first checkpoints,
-- $6 JSON: new types with the positions from which on they count
WITH wanted AS MATERIALIZED (
    SELECT w.name, w.former::jsonb AS former, w.note::jsonb AS note, w.shards, w.checkpoint, w.types::jsonb AS types
    FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[], $6::text[])
        AS w (name, former, note, shards, checkpoint, types)
), added AS (
    INSERT INTO {schema}.handlers (name, note)
    SELECT w.name, w.note
    FROM wanted w
    WHERE w.former IS NULL
    ORDER BY w.name
    ON CONFLICT (name) DO NOTHING
    RETURNING name
), added_shards AS (
    INSERT INTO {schema}.handler_shards (handler, shard, checkpoint)
    SELECT w.name, n, w.checkpoint
    FROM added a
    JOIN wanted w ON w.name = a.name
    CROSS JOIN generate_series(0, w.shards - 1) n
), known AS MATERIALIZED (
    SELECT h.name
    FROM {schema}.handlers h
    JOIN wanted w ON h.name = w.name AND h.note = w.former
    ORDER BY h.name
    FOR NO KEY UPDATE OF h
), changed AS (
    UPDATE {schema}.handlers h
    SET note = w.note
    FROM known k
    JOIN wanted w ON w.name = k.name
    WHERE h.name = k.name AND h.note = w.former
    RETURNING h.name, w.types
), held AS MATERIALIZED (
    SELECT s.handler, s.shard, c.types
    FROM {schema}.handler_shards s
    JOIN changed c ON c.name = s.handler AND c.types <> '{}'
    ORDER BY s.handler, s.shard
    FOR NO KEY UPDATE OF s
), left_by_shards AS (
    UPDATE {schema}.handler_shards s
    SET left_types = s.left_types || h.types
    FROM held h
    WHERE s.handler = h.handler AND s.shard = h.shard
)
SELECT a.name FROM added a
UNION ALL
SELECT c.name FROM changed c
