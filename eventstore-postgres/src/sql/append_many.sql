-- Appends events to many streams; a stream that is not where it is expected gives no rows, and harms no other.
--
-- $1 to $4 the streams, one array per column: id, type, expected version (-1 any, -2 has events), number of events.
-- $5 and $6 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $7 to $16 the events, one array per column.
--
-- `{stored}` and `{listed}` as in `append.sql`.
--
-- Keep the order: the rows of streams that exist are locked, in key order, then those of new streams are inserted, in
-- key order too, and only then are the locked ones updated; then the bound, then positions are drawn, see `append.sql`.
-- An insert that meets a row of another does not wait if that one is only locked, but does if it was updated. Whoever
-- locks waits with smaller locks only, whoever inserts waits only for another insert, and whoever has updated waits for
-- nothing more: so these statements never wait in a circle. Against transactions of others, which may hold rows in any
-- order, there is the patience: whoever waits too long gives way.
--
-- `LATERAL` with a lock looks up row by row, in the order it is given: whatever the planner believes of the table, it
-- cannot turn that into a join with all of it.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
),
wanted AS MATERIALIZED (
    SELECT w.*
    FROM patience, unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
        WITH ORDINALITY w(aggregate_id, aggregate_type, expected, events, number)
),
held AS MATERIALIZED (
    SELECT w.*, s.version AS base
    FROM (SELECT * FROM wanted ORDER BY aggregate_id COLLATE "C", aggregate_type COLLATE "C") w
    CROSS JOIN LATERAL (
        SELECT s.version
        FROM {schema}.streams s
        WHERE s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type
        FOR UPDATE
    ) s
),
made AS (
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, version)
    SELECT w.aggregate_id, w.aggregate_type, w.events
    FROM wanted w
    WHERE w.expected IN (-1, 0) AND w.number NOT IN (SELECT h.number FROM held h)
    ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING aggregate_id, aggregate_type
),
moved AS (
    UPDATE {schema}.streams s
    SET version = h.base + h.events
    FROM held h, (SELECT count(*) FROM made) inserted
    WHERE s.aggregate_id = h.aggregate_id AND s.aggregate_type = h.aggregate_type
      AND (h.expected = h.base OR h.expected = -1 OR (h.expected = -2 AND h.base > 0))
    RETURNING h.number, h.base, s.aggregate_id, s.aggregate_type
),
claimed AS (
    SELECT number, base, aggregate_id, aggregate_type FROM moved
    UNION ALL
    SELECT w.number, 0, m.aggregate_id, m.aggregate_type
    FROM made m
    JOIN wanted w ON w.aggregate_id = m.aggregate_id AND w.aggregate_type = m.aggregate_type
),
bound AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | {drawn})
    FROM (SELECT count(*) AS streams FROM claimed) c
    WHERE c.streams > 0
){stored}
INSERT INTO {schema}.events (
    position, version, occurred_at, event_id, correlation_id, schema_version, aggregate_id, aggregate_type,
    event_type, data, causation_id, tenant_id, actor_id, metadata)
SELECT
    nextval('{schema}.events_position_seq'), c.base + e.place, e.occurred_at, e.event_id, e.correlation_id,
    e.schema_version, c.aggregate_id, c.aggregate_type, e.event_type, e.data::json, e.causation_id, e.tenant_id,
    e.actor_id, e.metadata::json
FROM bound, unnest(
        $5::bigint[], $6::bigint[], $7::uuid[], $8::text[], $9::integer[], $10::timestamptz[], $11::text[],
        $12::uuid[], $13::uuid[], $14::uuid[], $15::text[], $16::text[])
    WITH ORDINALITY e(
        stream, place, event_id, event_type, schema_version, occurred_at, data, correlation_id, causation_id,
        tenant_id, actor_id, metadata, ordinal)
JOIN claimed c ON c.number = e.stream
ORDER BY e.ordinal
RETURNING event_id, version, position, recorded_at{listed}
