-- `true` if the schema exists, and the columns of its table of migrations; null if there is no such table.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::text),
    (
        SELECT array_agg(a.attname::text ORDER BY a.attnum)
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
        WHERE n.nspname = $1::text AND c.relname = 'migrations' AND a.attnum > 0 AND NOT a.attisdropped
    )
