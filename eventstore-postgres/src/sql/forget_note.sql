-- Deletes a note.
DELETE FROM {schema}.notes n
WHERE n.name = $1::text
