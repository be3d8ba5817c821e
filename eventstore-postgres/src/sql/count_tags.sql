-- For each of the tags $1 of tenant $2, in order, how many events of the types $3 have it.
SELECT coalesce((SELECT sum((t.counts ->> c.event_type)::bigint) FROM unnest($3::text[]) c(event_type)), 0)::bigint
FROM unnest($1::text[]) WITH ORDINALITY w(tag, number)
LEFT JOIN LATERAL (
    SELECT t.counts
    FROM {schema}.tags t
    WHERE t.tag = w.tag AND t.tenant_id = $2::uuid
    LIMIT 1
) t ON true
ORDER BY w.number
