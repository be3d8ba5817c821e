-- The type of a column, without a length or a precision: a cast to it neither cuts nor rounds.
--
-- $1 the table's name as a statement would have it, quoted, $2 the column's name
SELECT format_type(a.atttypid, -1)
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass($1::text) AND a.attname = $2::text AND a.attnum > 0 AND NOT a.attisdropped
