-- The table that an unqualified name means, with its schema, quoted; no row if there is none.
--
-- $1 the name, quoted
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1::text)
