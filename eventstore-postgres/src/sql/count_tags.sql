-- For each of the tags $1 of tenant $2, in order, the sum of its counts of the names $3.
SELECT coalesce((SELECT sum((t.counts ->> c.name)::bigint) FROM unnest($3::text[]) c(name)), 0)::bigint
FROM unnest($1::text[]) WITH ORDINALITY w(tag, number)
LEFT JOIN LATERAL (
    SELECT t.counts
    FROM {schema}.tags t
    WHERE t.tag = w.tag AND t.tenant_id = $2::uuid
    LIMIT 1
) t ON true
ORDER BY w.number
