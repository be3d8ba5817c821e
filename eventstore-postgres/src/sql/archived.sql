-- The versions up to which the events of streams were archived.
--
-- $1 to $3 the streams, one array per column: id, type, tenant
SELECT coalesce(s.archived_through, 0)
FROM unnest($1::text[], $2::text[], $3::uuid[])
    WITH ORDINALITY w(aggregate_id, aggregate_type, tenant_id, ordinal)
LEFT JOIN LATERAL (
    SELECT s.archived_through
    FROM {schema}.streams s
    WHERE s.aggregate_id = w.aggregate_id AND s.aggregate_type = w.aggregate_type AND s.tenant_id = w.tenant_id AND s.kind = 0
    OFFSET 0 -- a look-up for each, as the plan may be kept from a time of few streams
) s ON true
ORDER BY w.ordinal
