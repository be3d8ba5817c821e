-- A page of the events that have all tags of a wanted set, and match a filter: {page}. Each row also has the position up to
-- which the page searched; one row if there are no such events.
--
-- The parameters are those of `driving_tags.sql` and `matching_positions.sql`; $11 is the most events.
{planned_once}
{driving_tags}
SELECT p.*, window_end.reach
FROM window_end
LEFT JOIN LATERAL (
{page}
) p ON true
ORDER BY p.position
