-- The migrations of the database, oldest first.
SELECT m.version, m.name, m.kind
FROM {schema}.migrations m
ORDER BY m.version
