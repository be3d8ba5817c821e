-- Appends events to one stream; returns no rows and stores no events if the stream is not at the expected version.
--
-- $1 aggregate id, $2 aggregate type, $3 to $12 the events, one array per column, $13 the version for `claim_exact.sql`.
--
-- `{stored}` and `{listed}` are empty, or make `list_types.sql` of what the insert returns.
--
-- Invariant: the statement locks the stream's row, then locks the bound, then draws positions. A reader may skip a
-- position drawn before the bound is locked; one drawn before the row is locked may sort behind a later version. A
-- statement that waits for the row has locked no bound yet (the reference to `claimed` ensures it), so no reader
-- waits for it.
WITH claimed AS (
    {claim}
),
bound AS MATERIALIZED (
    SELECT c.base, pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | {drawn})
    FROM claimed c
){stored}
INSERT INTO {schema}.events (
    position, version, occurred_at, event_id, correlation_id, schema_version, aggregate_id, aggregate_type,
    event_type, payload, causation_id, tenant_id, actor_id, attributes)
SELECT
    nextval('{schema}.events_position_seq'), bound.base + e.ordinal, e.occurred_at, e.event_id, e.correlation_id,
    e.schema_version, $1::text, $2::text, e.event_type, e.payload::json, e.causation_id, e.tenant_id, e.actor_id,
    e.attributes::json
FROM bound, unnest(
        $3::uuid[], $4::text[], $5::integer[], $6::timestamptz[], $7::text[], $8::uuid[], $9::uuid[], $10::uuid[],
        $11::text[], $12::text[])
    WITH ORDINALITY e(
        event_id, event_type, schema_version, occurred_at, payload, correlation_id, causation_id, tenant_id,
        actor_id, attributes, ordinal)
ORDER BY e.ordinal
RETURNING event_id, version, position, recorded_at{listed}
