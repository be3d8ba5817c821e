-- The newest migration that was run; no row if the table is empty, an error if there is none.
SELECT max(m.version) FROM {schema}.migrations m
