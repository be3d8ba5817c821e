-- How far a reader of the feed has come; no row if it never said.
SELECT c.position
FROM {schema}.checkpoints c
WHERE c.name = $1::text
