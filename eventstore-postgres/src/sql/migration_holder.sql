-- The session that holds the lock of the migrations: its backend, application and the age of its transaction.
SELECT
    a.pid,
    coalesce(a.application_name, ''),
    coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
  AND l.classid::bigint = 1702260324 AND l.objid::bigint = {namespace}
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
LIMIT 1
