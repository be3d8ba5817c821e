-- Appends events to one stream; returns no rows and stores no events if the stream is not at the expected version.
--
-- $1 aggregate id, $2 aggregate type, $3 tenant, $4 to $13 the events, $14 the version for `claim_exact.sql`.
--
-- `{events}` is `append_one.sql` or `append_array.sql`.
-- `{stored}` and `{listed}` are empty, or make `list_types.sql` of what the insert returns.
--
-- An event id that the stream has makes the statement fail, by the key of the ids. If the table is partitioned, each
-- partition has a key of its own; then a claim finds no stream if an event of it has one of the ids.
--
-- Invariant: the statement locks the stream's row, then locks the bound, then draws positions. A reader may skip a
-- position drawn before the bound is locked; one drawn before the row is locked may sort behind a later version. A
-- statement that waits for the row has locked no bound yet (the reference to `claimed` ensures it), so no reader
-- waits for it.
WITH claimed AS (
    {claim}
),
bound AS MATERIALIZED (
    SELECT c.stream_no, c.base, c.recorded_at, {lock_bound}
    FROM claimed c
){stored}
INSERT INTO {schema}.events (
    position, stream_no, version, occurred_at, recorded_at, event_id, correlation_id, schema_version, event_type,
    payload, causation_id, actor_id, attributes, original_recorded_at)
SELECT
    nextval('{schema}.events_position_seq'), bound.stream_no, bound.base + e.ordinal, e.occurred_at, bound.recorded_at,
    e.event_id, e.correlation_id, e.schema_version, e.event_type, e.payload::json, e.causation_id, e.actor_id,
    e.attributes::json, e.original_recorded_at
FROM bound, {events}
RETURNING event_id, version, position, recorded_at, stream_no{listed}
