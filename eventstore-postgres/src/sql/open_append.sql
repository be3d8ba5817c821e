-- The append that has been open the longest: its backend (null for a prepared transaction), application and age, which is
-- null if this role may not see it; and whether the age of any open append is hidden.
--
-- The locks are those of `head.sql`, below which readers of the feed stay.
SELECT
    a.pid,
    coalesce(a.application_name, '') AS application_name,
    extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS seconds,
    -- of a session that this role may not see; without a transaction is one that has ended meanwhile
    coalesce(bool_or(a.query = '<insufficient privilege>') OVER (), false) AS has_hidden
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_locks x
    ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ShareLock' AND l.granted
  AND (l.classid::bigint >> 12) = {namespace}
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
ORDER BY seconds DESC NULLS LAST
LIMIT 1
