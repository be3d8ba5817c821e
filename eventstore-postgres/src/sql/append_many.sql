-- Appends events to many streams, except to those not at their expected version, for which it returns no rows.
--
-- $1 to $4 the streams, one array per column: id, type, expected version (-1 any, -2 has events), number of events.
-- $5 and $6 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $7 to $16 the events, one array per column.
--
-- `{stored}` and `{listed}` as in `append.sql`.
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
    event_type, payload, causation_id, tenant_id, actor_id, attributes)
SELECT
    nextval('{schema}.events_position_seq'), c.base + e.place, e.occurred_at, e.event_id, e.correlation_id,
    e.schema_version, c.aggregate_id, c.aggregate_type, e.event_type, e.payload::json, e.causation_id, e.tenant_id,
    e.actor_id, e.attributes::json
FROM bound, unnest(
        $5::bigint[], $6::bigint[], $7::uuid[], $8::text[], $9::integer[], $10::timestamptz[], $11::text[],
        $12::uuid[], $13::uuid[], $14::uuid[], $15::text[], $16::text[])
    WITH ORDINALITY e(
        stream, place, event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id,
        tenant_id, actor_id, attributes, ordinal)
JOIN claimed c ON c.number = e.stream
ORDER BY e.ordinal
RETURNING event_id, version, position, recorded_at{listed}
