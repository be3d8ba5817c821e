-- The rows of a page of the events at positions $1, in the order of the positions.
SELECT w.*, p.place
FROM unnest($1::bigint[]) WITH ORDINALITY p (position, place)
CROSS JOIN LATERAL (
    SELECT e.*
    FROM {schema}.events e
    WHERE e.position = p.position
    OFFSET 0 -- a look-up for each, as the plan may be kept from a time of few events
) w
ORDER BY p.place
