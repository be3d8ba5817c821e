-- `true` if the schema exists, and if its table of migrations does.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::text) AS schema_exists,
    EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::text AND c.relname = 'migrations') AS migrations_exist
