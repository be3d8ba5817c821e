-- How far a reader of the feed has come, and nobody moves it on until this transaction ends; no row if it never said.
SELECT c.position
FROM {schema}.checkpoints c
WHERE c.name = $1::text
FOR SHARE
