-- The settings of the server that the store checks before it creates tables.
SELECT
    current_setting('server_version_num')::integer         AS version_number,
    pg_is_in_recovery()                                    AS standby,
    current_setting('transaction_read_only') = 'on'        AS read_only,
    current_setting('synchronous_commit')                  AS synchronous_commit,
    current_setting('server_encoding')                     AS encoding,
    current_setting('default_transaction_isolation')       AS isolation,
    current_setting('fsync') = 'on'                        AS fsync,
    coalesce((SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false)
                                                           AS encrypted,
    (SELECT count(*) FROM pg_catalog.pg_prepared_xacts x WHERE x.database = current_database())
                                                           AS prepared_transactions
