-- The processes with the names of $1.
SELECT m.name, m.handlers
FROM {schema}.handler_members m
WHERE m.name = ANY ($1::text[])
