-- The writable columns of a table: each quoted, and for an identity column the plain name too.
--
-- $1 the table's name with its schema, quoted
SELECT quote_ident(a.attname), CASE WHEN a.attidentity <> '' THEN a.attname::text END
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
