-- Appends events to one stream; a stream that is not where it is expected gives no rows and stores nothing.
--
-- $1 aggregate id, $2 aggregate type, $3 to $12 the events, one array per column, $13 what `claim_exact.sql` needs.
--
-- `{stored}` and `{listed}` are empty, or make `list_types.sql` of what the insert returns.
--
-- Keep the order: the stream's row is locked, then the bound, then positions are drawn. A position drawn before the
-- bound is locked may be skipped by a reader; one drawn before the row is locked may sort behind a later version. Whoever
-- waits for the row has locked no bound yet (the reference to `claimed` sees to it), so no reader waits with him.
WITH claimed AS (
    {claim}
),
bound AS MATERIALIZED (
    SELECT c.base, pg_advisory_xact_lock_shared(({namespace}::bigint << 44) | {drawn})
    FROM claimed c
){stored}
INSERT INTO {schema}.events (
    position, version, occurred_at, event_id, correlation_id, schema_version, aggregate_id, aggregate_type,
    event_type, data, causation_id, tenant_id, actor_id, metadata)
SELECT
    nextval('{schema}.events_position_seq'), bound.base + e.ordinal, e.occurred_at, e.event_id, e.correlation_id,
    e.schema_version, $1::text, $2::text, e.event_type, e.data::json, e.causation_id, e.tenant_id, e.actor_id,
    e.metadata::json
FROM bound, unnest(
        $3::uuid[], $4::text[], $5::integer[], $6::timestamptz[], $7::text[], $8::uuid[], $9::uuid[], $10::uuid[],
        $11::text[], $12::text[])
    WITH ORDINALITY e(
        event_id, event_type, schema_version, occurred_at, data, correlation_id, causation_id, tenant_id,
        actor_id, metadata, ordinal)
ORDER BY e.ordinal
RETURNING event_id, version, position, recorded_at{listed}
