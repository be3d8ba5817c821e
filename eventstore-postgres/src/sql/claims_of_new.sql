-- Streams that are all expected to have no events. One that has a row is not claimed. It does what `claims_of_any.sql` does
-- for streams without rows, in a sixth less time of the server.
--
-- Invariant: the statement inserts the rows in key order. It waits for a statement that has inserted one of the rows, whose
-- key is larger than all it has inserted itself, or for one that has updated the row, which waits no more.
made AS (
    INSERT INTO {schema}.streams (aggregate_id, aggregate_type, tenant_id, version, recorded_at)
    SELECT w.aggregate_id, w.aggregate_type, w.tenant_id, w.events, clock_timestamp()
    FROM wanted w
    ORDER BY w.aggregate_id COLLATE "C", w.aggregate_type COLLATE "C", w.tenant_id
    ON CONFLICT DO NOTHING
    RETURNING stream_no, recorded_at, aggregate_id, aggregate_type, tenant_id
),
claimed AS (
    SELECT w.number, 0::bigint AS base, m.stream_no, m.recorded_at
    FROM made m
    JOIN wanted w
        ON w.aggregate_id = m.aggregate_id AND w.aggregate_type = m.aggregate_type AND w.tenant_id = m.tenant_id
)
