-- How far a reader of the feed has come, and forgets it; no row if it never said. Whoever would move it waits.
DELETE FROM {schema}.checkpoints c
WHERE c.name = $1::text
RETURNING c.position
