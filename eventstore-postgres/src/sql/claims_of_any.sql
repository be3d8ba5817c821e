-- Streams with any expected version, some of which exist.
--
-- Invariant: the statement locks the rows of existing streams in key order, then inserts those of new streams in key
-- order, and only then updates the locked rows. An insert that meets the row of a concurrent transaction waits if that
-- row was updated, but not if it is only locked. So a statement that locks holds only locks of smaller keys while it
-- waits, one that inserts waits only for inserts, and one that has updated waits no more: these statements never
-- deadlock.
--
-- `LATERAL` with a lock looks up row by row, in the given order: the planner cannot turn it into a join with the whole
-- table, even if its statistics suggest that. The array keeps the update from walking the whole key of stream numbers if the
-- statistics were made of at most one stream. Without the `CASE` the planner expects one stream, and compares each
-- row with every number of the array.
held AS MATERIALIZED (
    SELECT w.*, s.stream_no, s.version AS base
    FROM (SELECT * FROM wanted ORDER BY aggregate_id COLLATE "C", aggregate_type COLLATE "C", tenant_id) w
    CROSS JOIN LATERAL (
        SELECT s.stream_no, s.version
        FROM {schema}.streams s
        WHERE s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type
          AND s.tenant_id = w.tenant_id AND s.kind = 0
        FOR UPDATE
    ) s
),
made AS (
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    SELECT w.aggregate_id, w.aggregate_type, w.tenant_id, w.events, clock_timestamp()
    FROM wanted w
    WHERE w.expected IN (-1, 0) AND w.number NOT IN (SELECT h.number FROM held h)
    ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C", w.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING stream_no, recorded_at, aggregate_id, aggregate_type, tenant_id
),
known AS MATERIALIZED (
    SELECT DISTINCT new.stream
    FROM unnest($6::bigint[], $8::uuid[]) new(stream, event_id)
    JOIN held h ON h.number = new.stream
    WHERE {is_stored}
),
moved AS (
    UPDATE {schema}.streams s
    SET version = h.base + h.events, recorded_at = greatest(s.recorded_at, clock_timestamp())
    FROM held h, (SELECT count(*) FROM made) inserted
    WHERE s.stream_no = h.stream_no AND s.stream_no = ANY (ARRAY(SELECT stream_no FROM held))
      AND CASE
          WHEN h.number IN (SELECT k.stream FROM known k) THEN NULL
          WHEN h.expected = h.base OR h.expected = -1 OR (h.expected = -2 AND h.base > 0) THEN true
      END IS NOT NULL
    RETURNING h.number, h.base, s.stream_no, s.recorded_at
),
claimed AS (
    SELECT number, base, stream_no, recorded_at FROM moved
    UNION ALL
    SELECT w.number, 0, m.stream_no, m.recorded_at
    FROM made m
    JOIN wanted w
        ON w.aggregate_id = m.aggregate_id AND w.aggregate_type = m.aggregate_type AND w.tenant_id = m.tenant_id
)
