-- The notes of the handlers with the names of $1.
SELECT h.name, h.note::text
FROM {schema}.handlers h
WHERE h.name = ANY ($1::text[])
