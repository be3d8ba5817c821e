-- The newest migration of the database; null if the table is empty, an error if it does not exist.
SELECT max(m.version) FROM {schema}.migrations m
