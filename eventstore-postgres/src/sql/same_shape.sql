-- True if two tables exist and have the same columns.
--
-- $1, $2 their names with their schemas, quoted
SELECT count(DISTINCT t.shape) = 1 AND count(t.shape) = 2
FROM (
    SELECT (
        SELECT array_agg(
                   format('%s %s %s %s %s %s', a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity, a.attgenerated)
                   ORDER BY a.attname)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = to_regclass(names.name) AND a.attnum > 0 AND NOT a.attisdropped
    ) AS shape
    FROM (VALUES ($1::text), ($2::text)) names(name)
) t
