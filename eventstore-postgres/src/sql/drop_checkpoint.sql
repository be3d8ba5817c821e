-- Forgets how far a reader of the feed has come.
DELETE FROM {schema}.checkpoints c
WHERE c.name = $1::text
