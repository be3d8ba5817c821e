-- The note beside a checkpoint; no row if none was saved.
SELECT n.note
FROM {schema}.notes n
WHERE n.name = $1::text
