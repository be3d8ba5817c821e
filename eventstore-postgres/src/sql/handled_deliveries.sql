-- Returns the noted deliveries of events, $1 to $4: ids, and of their streams id, type, tenant; one row has a handler and the
-- place of the event among these. The primary key begins with the handler, so it is asked for each handler in turn.
WITH RECURSIVE handlers AS (
    (SELECT d.handler FROM {schema}.deliveries d ORDER BY d.handler LIMIT 1)
    UNION ALL
    SELECT (SELECT d.handler FROM {schema}.deliveries d WHERE d.handler > h.handler ORDER BY d.handler LIMIT 1)
    FROM handlers h
    WHERE h.handler IS NOT NULL
)
SELECT h.handler, e.place
FROM handlers h
CROSS JOIN unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[])
    WITH ORDINALITY e(event_id, aggregate_id, aggregate_type, tenant_id, place)
WHERE EXISTS (
    SELECT FROM {schema}.deliveries d
    WHERE d.handler = h.handler AND d.event_id = e.event_id AND d.aggregate_id = e.aggregate_id
        AND d.aggregate_type = e.aggregate_type AND d.tenant_id = e.tenant_id)
