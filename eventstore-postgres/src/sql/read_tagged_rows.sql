-- The rows of a page of tagged events: each position once, also if several sets match.
SELECT e.*
FROM (
    SELECT DISTINCT f.position
    FROM driving d
    CROSS JOIN LATERAL (
        {matching_positions}
        ORDER BY l.position
        LIMIT $11::bigint
    ) f
    ORDER BY f.position
    LIMIT $11::bigint
) t
CROSS JOIN LATERAL (
    SELECT *
    FROM {schema}.events w
    WHERE w.position = t.position
    OFFSET 0
) e
