-- The number of events that have all tags of a wanted set, and match a filter, after position $1, and the position up to
-- which it counted.
--
-- The parameters are those of `driving_tags.sql` and `matching_positions.sql`.
{driving_tags}
SELECT count(DISTINCT f.position), window_end.reach
FROM window_end
LEFT JOIN LATERAL (
    SELECT f.position
    FROM driving d
    CROSS JOIN LATERAL (
        {matching_positions}
    ) f
) f ON true
GROUP BY window_end.reach
