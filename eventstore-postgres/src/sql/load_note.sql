-- What the keeper of a checkpoint noted beside it; no row if it never did.
SELECT n.note
FROM {schema}.notes n
WHERE n.name = $1::text
