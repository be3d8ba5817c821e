-- What drives a read by tags: for each wanted set and tenant the tag with the fewest events, and the other tags of the set.
--
-- $5 tenant; null is all. $7 to $9 the tags of the sets: the number of the set, how many tags it has, and the tag.
--
-- A read ends at `reach`: at the position up to which each driving tag has $10 further events, or at $2.
WITH driving AS MATERIALIZED (
    SELECT
        (array_agg(f.tag_no ORDER BY f.events, f.tag_no))[1] AS tag_no,
        (array_agg(f.tag_no ORDER BY f.events, f.tag_no))[2:] AS others
    FROM (
        SELECT w.number, w.tags, t.tenant_id, t.tag_no,
            (SELECT sum(c.value::bigint) FROM jsonb_each_text(t.counts) c WHERE c.key <> '') AS events
        FROM unnest($7::bigint[], $8::bigint[], $9::text[]) w(number, tags, tag)
        CROSS JOIN LATERAL (
            SELECT t.tag_no, t.tenant_id, t.counts FROM {schema}.tags t
            WHERE $5::uuid IS NOT NULL AND t.tag = w.tag AND t.tenant_id = $5::uuid
            UNION ALL
            SELECT t.tag_no, t.tenant_id, t.counts FROM {schema}.tags t
            WHERE $5::uuid IS NULL AND t.tag = w.tag
        ) t
    ) f
    GROUP BY f.number, f.tags, f.tenant_id
    HAVING count(*) = f.tags
),
window_end AS MATERIALIZED (
    SELECT least($2::bigint, min(x.position)) AS reach
    FROM driving d
    CROSS JOIN LATERAL (
        SELECT x.position
        FROM {schema}.tagged_events x
        WHERE x.tag_no = d.tag_no AND x.position > $1::bigint AND x.position <= $2::bigint
        ORDER BY x.position
        OFFSET $10::bigint - 1 LIMIT 1
    ) x
)
