-- The checkpoints of readers of the feed. A row for each, in order; null if it never saved one.
--
-- $1 names
SELECT c.position
FROM unnest($1::text[]) WITH ORDINALITY AS w (name, number)
LEFT JOIN {schema}.checkpoints c ON c.name = w.name
ORDER BY w.number
