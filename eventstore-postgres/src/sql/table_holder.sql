-- The other session whose transaction has locked a table of the store for the longest time: its backend, application
-- and the age of its transaction.
SELECT
    a.pid,
    coalesce(a.application_name, ''),
    coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS seconds
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
  AND c.relnamespace = '{schema}'::regnamespace
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
ORDER BY seconds DESC
LIMIT 1
