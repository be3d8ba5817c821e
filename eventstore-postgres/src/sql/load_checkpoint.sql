-- The checkpoint of a reader of the feed; no row if it never saved one.
SELECT c.position
FROM {schema}.checkpoints c
WHERE c.name = $1::text
