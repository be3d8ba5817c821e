-- For each of the tags $12 of tenant $5, in order, the sum of its counts of the names $13.
SELECT coalesce((SELECT sum((t.counts ->> c.name)::bigint) FROM unnest($13::text[]) c(name)), 0)::bigint
FROM unnest($12::text[]) WITH ORDINALITY w(tag, number)
LEFT JOIN LATERAL (
    SELECT t.counts
    FROM {schema}.tags t
    WHERE t.tag = w.tag AND t.tenant_id = $5::uuid
    LIMIT 1
) t ON true
ORDER BY w.number
