-- Appends to several streams and notes the delivery that the events handle, or does nothing; returns what it found.
--
-- $1 to $5 the streams, one array per column: id, type, tenant, expected version (-1 any, -2 has events), event count;
-- a stream without events is only checked.
-- $6 and $7 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $8 to $17 the events, one array per column.
-- $18 to $22 the delivery: handler, event id, and the stream of the event: id, type, tenant; null without one.
--
-- `result` 0: it took effect. 1: a stored event. 2: the stream `number` is at `version`, not as expected. No rows:
-- the delivery was noted before, or an event id is stored in a partition.
--
-- Invariant: the statement judges the rows that it has locked, and all of them before it writes; then it notes the
-- delivery, inserts new streams, updates the others, locks the bound and draws positions: the order of `append_many.sql`.
-- A stream that must not exist and is only checked gets a row of version 0, so that there is a row to hold.
--
-- A concurrent writer may insert the row of a stream that this snapshot does not have: `made` then returns fewer rows
-- than `missing`, and `fine` fails the statement by a division by zero, as its other rows must go.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
),
wanted AS MATERIALIZED (
    SELECT w.*
    FROM patience, unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
        WITH ORDINALITY w(aggregate_id, aggregate_type, tenant_id, expected, events, number)
),
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
failed AS MATERIALIZED (
    SELECT w.number, coalesce(h.base, 0) AS actual
    FROM wanted w
    LEFT JOIN held h ON h.number = w.number
    WHERE w.expected <> -1 AND w.expected <> coalesce(h.base, 0) AND NOT (w.expected = -2 AND coalesce(h.base, 0) > 0)
),
known AS MATERIALIZED (
    SELECT DISTINCT new.stream
    FROM unnest($6::bigint[], $8::uuid[]) new(stream, event_id)
    JOIN held h ON h.number = new.stream
    WHERE {is_stored}
),
noted AS (
    INSERT INTO {schema}.deliveries (handler, event_id, aggregate_id, aggregate_type, tenant_id)
    SELECT $18::text, $19::uuid, $20::text, $21::text, $22::uuid
    WHERE $18::text IS NOT NULL AND NOT EXISTS (SELECT FROM failed) AND NOT EXISTS (SELECT FROM known)
    ON CONFLICT DO NOTHING
    RETURNING handler
),
go AS MATERIALIZED (
    SELECT true AS is_ready
    WHERE NOT EXISTS (SELECT FROM failed) AND NOT EXISTS (SELECT FROM known)
      AND ($18::text IS NULL OR EXISTS (SELECT FROM noted))
),
missing AS MATERIALIZED (
    SELECT w.*
    FROM go, wanted w
    WHERE w.number NOT IN (SELECT h.number FROM held h) AND (w.events > 0 OR w.expected = 0)
),
made AS (
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    SELECT w.aggregate_id, w.aggregate_type, w.tenant_id, w.events, clock_timestamp()
    FROM missing w
    ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C", w.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING stream_no, recorded_at, aggregate_id, aggregate_type, tenant_id
),
fine AS MATERIALIZED (
    SELECT 1 / CASE WHEN (SELECT count(*) FROM made) = (SELECT count(*) FROM missing) THEN 1 ELSE 0 END AS is_fine
),
moved AS (
    UPDATE {schema}.streams s
    SET version = h.base + h.events, recorded_at = greatest(s.recorded_at, clock_timestamp())
    FROM held h, fine, go
    WHERE s.stream_no = h.stream_no AND h.events > 0 AND fine.is_fine = 1
    RETURNING h.number, h.base, s.stream_no, s.recorded_at
),
claimed AS (
    SELECT number, base, stream_no, recorded_at FROM moved
    UNION ALL
    SELECT w.number, 0, m.stream_no, m.recorded_at
    FROM made m
    JOIN wanted w
        ON w.aggregate_id = m.aggregate_id AND w.aggregate_type = m.aggregate_type AND w.tenant_id = m.tenant_id
),
bound AS MATERIALIZED (
    SELECT pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | {drawn})
    FROM (SELECT count(*) AS streams FROM claimed) c, fine
    WHERE c.streams > 0 AND fine.is_fine = 1
),
stored AS (
    INSERT INTO {schema}.events (
        position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type,
        payload, causation_id, actor_id, attributes, original_recorded_at)
    SELECT
        nextval('{schema}.events_position_seq'), c.stream_no, c.base + e.place, e.occurred_at, c.recorded_at,
        e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload::json, e.causation_id, e.actor_id,
        e.attributes::json, e.original_recorded_at
    FROM bound, unnest(
            $6::bigint[], $7::bigint[], $8::uuid[], $9::text[], $10::integer[], $11::timestamptz[], $12::text[],
            $13::uuid[], $14::uuid[], $15::text[], $16::text[], $17::timestamptz[])
        WITH ORDINALITY e(
            stream, place, event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id,
            actor_id, attributes, original_recorded_at, ordinal)
    JOIN claimed c ON c.number = e.stream
    ORDER BY e.ordinal
    RETURNING event_id, version, position, recorded_at, event_type, schema_version
),
listed AS (
    INSERT INTO {schema}.event_types (event_type, schema_version, first_position)
    SELECT found.event_type, found.schema_version, found.first_position
    FROM (
        SELECT s.event_type, max(s.schema_version) AS schema_version, min(s.position) AS first_position
        FROM stored s
        GROUP BY s.event_type
    ) found
    WHERE NOT EXISTS (
        SELECT FROM {schema}.event_types t
        WHERE t.event_type = found.event_type AND t.schema_version >= found.schema_version)
)
SELECT r.event_id, r.version, r.position, r.recorded_at, r.result, r.number
FROM fine, (
    SELECT NULL::uuid AS event_id, 0::bigint AS version, NULL::bigint AS position, NULL::timestamptz AS recorded_at,
        0 AS result, NULL::bigint AS number
    FROM go
    UNION ALL
    SELECT s.event_id, s.version, s.position, s.recorded_at, 1, NULL FROM stored s
    UNION ALL
    SELECT NULL, f.actual, NULL, NULL, 2, f.number FROM failed f
) r
WHERE fine.is_fine = 1
ORDER BY r.result, r.position, r.number
