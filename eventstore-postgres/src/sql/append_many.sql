-- Appends events to many streams, except to those not at their expected version, for which it returns no rows.
--
-- $1 to $5 the streams, one array per column: id, type, tenant, expected version (-1 any, -2 has events), event count.
-- $6 and $7 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $8 to $17 the events, one array per column.
--
-- `{stored}` and `{listed}`, and event ids that are stored already, as in `append.sql`.
--
-- Invariant: the statement locks the rows of existing streams in key order, then inserts those of new streams in key
-- order, and only then updates the locked rows; then it locks the bound and draws positions, see `append.sql`. An
-- insert that meets the row of a concurrent transaction waits if that row was updated, but not if it is only locked. So
-- a statement that locks holds only locks of smaller keys while it waits, one that inserts waits only for inserts, and
-- one that has updated waits no more: these statements never deadlock. Transactions of the application may hold rows in
-- any order; against a deadlock with those, `patience` limits the wait for a lock, and the statement fails.
--
-- `LATERAL` with a lock looks up row by row, in the given order: the planner cannot turn it into a join with the whole
-- table, even if its statistics suggest that.
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
    WHERE s.stream_no = h.stream_no AND h.number NOT IN (SELECT k.stream FROM known k)
      AND (h.expected = h.base OR h.expected = -1 OR (h.expected = -2 AND h.base > 0))
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
    FROM (SELECT count(*) AS streams FROM claimed) c
    WHERE c.streams > 0
){stored}
INSERT INTO {schema}.events (
    position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type,
    payload, causation_id, actor_id, attributes, original_recorded_at)
SELECT
    nextval('{schema}.events_position_seq'), c.stream_no, c.base + e.place, e.occurred_at, c.recorded_at, e.event_id,
    e.correlation_id, e.schema_version, e.event_type, e.payload::json, e.causation_id, e.actor_id, e.attributes::json,
    e.original_recorded_at
FROM bound, unnest(
        $6::bigint[], $7::bigint[], $8::uuid[], $9::text[], $10::integer[], $11::timestamptz[], $12::text[],
        $13::uuid[], $14::uuid[], $15::text[], $16::text[], $17::timestamptz[])
    WITH ORDINALITY e(
        stream, place, event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id,
        actor_id, attributes, original_recorded_at, ordinal)
JOIN claimed c ON c.number = e.stream
ORDER BY e.ordinal
RETURNING event_id, version, position, recorded_at{listed}
