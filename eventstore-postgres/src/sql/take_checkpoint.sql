-- Deletes and returns the checkpoint of a reader of the feed; no row if there is none. Until the transaction ends,
-- writers of the checkpoint wait.
DELETE FROM {schema}.checkpoints c
WHERE c.name = $1::text
RETURNING c.position
