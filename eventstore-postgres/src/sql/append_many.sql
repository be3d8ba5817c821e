-- Appends events to many streams, except to those not at their expected version, for which it returns no rows.
--
-- $1 to $5 the streams, one array per column: id, type, tenant, expected version (-1 any, -2 has events), event count.
-- $6 and $7 for each event its stream, counted from 1, and its place among the stream's events, counted from 1;
-- $8 to $17 the events, one array per column.
--
-- `{claim}` is `claims_of_any.sql` or `claims_of_new.sql`; `{stored}` and `{listed}`, and event ids that are stored
-- already, as in `append.sql`.
--
-- Invariant: the statement claims its streams, see there; then it locks the bound and draws positions, see `append.sql`.
-- Statements that claim streams never deadlock with each other. Transactions of the application may hold rows in any
-- order; against a deadlock with those, `patience` limits the wait for a lock, and the statement fails.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '100ms', true)
),
wanted AS MATERIALIZED (
    SELECT w.*
    FROM patience, unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
        WITH ORDINALITY w(aggregate_id, aggregate_type, tenant_id, expected, events, number)
),
{claim},
bound AS MATERIALIZED (
    SELECT {lock_bound}
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
RETURNING event_id, version, position, recorded_at, stream_no{listed}
