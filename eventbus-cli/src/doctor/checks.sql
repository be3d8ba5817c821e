-- The checks of the doctor, in the order in which it makes them.
--
-- Lines that begin with `--!` describe a check, the others are its statements:
--
--   check NAME on SUBJECT: FINDS   a check; a deep one reads whole tables
--   fault, warning, note: TEXT     each row of the statement above is a finding with this text, its consequence (`so`) and
--                                  its repair; with `if COLUMN and COLUMN` only a row for which the columns are true
--   not checked: TEXT              each row is a part that could not be checked
--   elsewhere: TEXT                if the role may not run the statement, the check belongs elsewhere
--   as NAME                        the check has the statements and texts of the check NAME
--   define NAME                    a part of statements, which write `{NAME}` for it
--
-- Functions make the rows of checks without statements, and change those of some statements (`code.rs`). In a text a name
-- in braces is a column of the row; the report shows columns whose names do not begin with `_`. In a statement it is a
-- threshold of the configuration, or what differs between PostgreSQL and SQLite: `{table NAME}`, `{seconds TIME}`, `{now}`,
-- `{lease_end}`, `{uuid COLUMN}`.

--! define repair_of_setting
CASE source
    -- it takes precedence over the files of the server
    WHEN 'command line' THEN format('remove `%s` from the command line of the server, and restart the server', name)
    WHEN 'client' THEN 'remove it from the options of the connection'
    ELSE format('ALTER SYSTEM SET %s = ''on''; SELECT pg_reload_conf()', name)
END

-- the indexes of a new database: table, name, columns, and whether it is unique
--! define indexes
    ('streams', 'streams_pkey', 'stream_no', true),
    ('streams', 'streams_identity_key', 'aggregate_id,aggregate_type,tenant_id,kind', true),
    ('events', 'events_pkey', 'position', true),
    ('events', 'events_stream_key', 'stream_no,version', true),
    ('events', 'events_event_id_key', 'event_id,stream_no', true),
    ('event_types', 'event_types_pkey', 'event_type,schema_version,first_position', true),
    ('store', 'store_pkey', 'only_row', true),
    ('checkpoints', 'checkpoints_pkey', 'name', true),
    ('notes', 'notes_pkey', 'name', true),
    ('leases', 'leases_pkey', 'role', true),
    ('deliveries', 'deliveries_pkey', 'handler,event_id,aggregate_id,aggregate_type,tenant_id', true),
    ('deliveries', 'deliveries_handled_at_idx', 'handled_at', false),
    ('handlers', 'handlers_pkey', 'name', true),
    ('handler_shards', 'handler_shards_pkey', 'handler,shard', true),
    ('handler_rows', 'handler_rows_pkey', 'handler,position', true),
    ('handler_rows', 'handler_rows_live_idx', 'handler,shard,position', false),
    ('handler_rows', 'handler_rows_dead_idx', 'dead_since,position,handler', false),
    ('handler_members', 'handler_members_pkey', 'name', true),
    ('paused_groups', 'paused_groups_pkey', 'name', true),
    ('snapshots', 'snapshots_pkey', 'stream_no,fold', true),
    ('unique_values', 'unique_values_pkey', 'value,scope,tenant_id', true),
    ('unique_values', 'unique_values_stream_idx', 'stream_no,scope', false),
    ('commands', 'commands_pkey', 'key,tenant_id', true),
    ('commands', 'commands_handled_at_idx', 'handled_at', false),
    ('tags', 'tags_pkey', 'tag_no', true),
    ('tags', 'tags_identity_key', 'tag,tenant_id', true),
    ('tagged_events', 'tagged_events_pkey', 'tag_no,position', true),
    ('migrations', 'migrations_pkey', 'version', true)

--! check pg-server on postgres: a server that the store refuses: version, encoding, standby, read-only
SELECT version, encoding, standby, read_only, version / 10000 AS _major, quote_ident(current_database()) AS _database,
    version < 130000 AS _is_old, encoding <> 'UTF8' AS _is_foreign, read_only AND NOT standby AS _is_read_only
FROM (
    SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding,
        pg_is_in_recovery() AS standby, current_setting('default_transaction_read_only') = 'on' AS read_only) s
--! fault if _is_old: the server is PostgreSQL {_major}
--! so the store refuses to connect
--! repair upgrade the server to PostgreSQL 13 or newer
--! fault if _is_foreign: the encoding of the database is {encoding}
--! so the store refuses to connect
--! repair create the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0
--! fault if standby: the server is a standby
--! so the store refuses to connect
--! repair connect to the primary
--! fault if _is_read_only: transactions are read-only by default
--! so the store refuses to connect
--! repair find out where `default_transaction_read_only` is set, and remove it; for the database by SET default_transaction_read_only = off; ALTER DATABASE {_database} RESET default_transaction_read_only

--! check pg-sync-commit on postgres: `synchronous_commit` off, for the server, a database or a role
SELECT role, database,
    CASE WHEN role = '' AND database = '' THEN 'all roles'
        ELSE concat_ws(' in ', 'role `' || nullif(role, '') || '`', 'database `' || nullif(database, '') || '`')
    END AS _of,
    CASE WHEN role = '' AND database = '' THEN 'ALTER ROLE ALL'
        WHEN role = '' THEN 'ALTER DATABASE "' || database || '"'
        ELSE 'ALTER ROLE "' || role || '"' || coalesce(' IN DATABASE "' || nullif(database, '') || '"', '')
    END AS _alter
FROM (
    SELECT coalesce(r.rolname, '')::text AS role, coalesce(d.datname, '')::text AS database
    FROM pg_db_role_setting s
    CROSS JOIN unnest(s.setconfig) c
    LEFT JOIN pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE c ~* '^synchronous_commit=(off|false|no|0)$' AND (s.setdatabase = 0 OR d.datname = current_database())) s
--! fault: `synchronous_commit` is off for {_of}
--! so a crash of the server loses saves that it has acknowledged
--! repair {_alter} RESET synchronous_commit
SELECT source, {repair_of_setting} AS _repair
FROM pg_settings
WHERE setting = 'off' AND name = 'synchronous_commit'
    AND source NOT IN ('global', 'database', 'user', 'database user')
--! fault: `synchronous_commit` is off (source: {source})
--! so a crash of the server loses saves that it has acknowledged
--! repair {_repair}

--! check pg-fsync on postgres: `fsync` or `full_page_writes` off
SELECT name AS setting, {repair_of_setting} AS _repair
FROM pg_settings WHERE setting = 'off' AND name IN ('fsync', 'full_page_writes') ORDER BY 1
--! fault: `{setting}` is off
--! so a power failure damages the database, all of it
--! repair {_repair}

--! check pg-long-transaction on postgres: transactions that are open for long
SELECT pid, coalesce(application_name, '') AS application_name, coalesce(state, '') AS state,
    {now} - {seconds xact_start} AS seconds
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND {now} - {seconds xact_start} > {long_transaction}
ORDER BY xact_start LIMIT 20
--! warning: a transaction of `{application_name}` (process {pid}, {state}) is open for {seconds:.0} s
--! so vacuum removes no row that became dead since, in any table
--! repair SELECT pg_terminate_backend({pid}); set `idle_in_transaction_session_timeout` for the role that began it
SELECT count(*) AS hidden FROM pg_stat_activity
WHERE datname = current_database() AND query = '<insufficient privilege>' HAVING count(*) > 0
--! not checked: {hidden} sessions of different roles are hidden: GRANT pg_read_all_stats to the role of this connection

--! check pg-open-append on postgres_store: an append whose transaction stays open
--! fault if _is_session: a transaction of `{application_name}` that has appended events is open for {_age} s
--! so no reader of the feed gets past its events: handlers and projections stand still
--! repair SELECT pg_terminate_backend({pid})
--! fault if _is_prepared: a transaction of `{application_name}` that has appended events is open for {_age} s
--! so no reader of the feed gets past its events: handlers and projections stand still
--! repair it is a prepared transaction: ROLLBACK PREPARED with its name of `pg_prepared_xacts`

--! check pg-prepared on postgres: prepared transactions without an end
SELECT gid AS name, owner::text, {now} - {seconds prepared} AS seconds, quote_literal(gid) AS _quoted
FROM pg_prepared_xacts
WHERE database = current_database() AND {now} - {seconds prepared} > {prepared_transaction}
ORDER BY prepared LIMIT 20
--! fault: the prepared transaction `{name}` of `{owner}` is {seconds:.0} s old
--! so it keeps its locks over restarts: vacuum stands still, and the feed if it appended events
--! repair ROLLBACK PREPARED {_quoted}

--! check pg-connections on postgres: connections that are nearly used up
SELECT * FROM (
    SELECT (SELECT sum(numbackends) FROM pg_stat_database)::bigint AS used,
        current_setting('max_connections')::bigint
            - current_setting('superuser_reserved_connections')::bigint AS max) c
WHERE used > {connections_share} * max
--! warning: {used} of {max} connections are in use
--! so the next process cannot connect, and a store that lost its connections neither
--! repair lower `max_connections` of the stores, stop idle clients, or raise the server's `max_connections`

--! check pg-transaction-ids on postgres: rows that vacuum has not frozen
SELECT datname::text AS database, age(datfrozenxid)::bigint AS age FROM pg_database
WHERE age(datfrozenxid) > {transaction_id_age} ORDER BY 2 DESC LIMIT 5
--! warning: the oldest unfrozen row of database `{database}` is {age} transactions old
--! so at about 2,100,000,000 the server refuses every write
--! repair end long and prepared transactions, drop replication slots without a reader, then VACUUM in `{database}`

--! check pg-clock on postgres: a clock that differs from this machine's
--! warning if _is_off: the clock of {_of} is {_difference:.1} s {_direction} this machine's
--! so leases go by the server's clock, times of events by the process's: they contradict each other
--! repair let NTP set the clocks of all machines (`timedatectl status`, `chronyc tracking`)

--! check pg-disk on postgres: a disk that is nearly full, if the server is on this machine
--! warning if _is_low: {_percent:.1} % of the disk of `{_folder}` are free: {_free} of {_size} MiB
--! so on a full disk every append fails, and a server may stop
--! repair enlarge the disk, or remove what is not needed: archived events, old logs, replication slots without a reader
--! fault if _is_full: {_percent:.1} % of the disk of `{_folder}` are free: {_free} of {_size} MiB
--! so on a full disk every append fails, and a server may stop
--! repair enlarge the disk, or remove what is not needed: archived events, old logs, replication slots without a reader

--! check pg-sync-standby on postgres: commits that wait for a standby which is not there
SELECT current_setting('synchronous_standby_names') AS names,
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS connected,
    count(*) FILTER (WHERE sync_state IS NULL) AS hidden
FROM pg_stat_replication
--! not checked if _is_hidden: the states of the standbys are hidden: GRANT pg_read_all_stats to the role of this connection
--! fault if _is_missing: `synchronous_standby_names` is `{names}`, and {connected} such standbys are connected
--! so every commit waits, so that no save returns
--! repair start the standby, or ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()

--! check pg-slot on postgres: replication slots without a reader
SELECT slot_name::text AS slot, held AS held_bytes, held >> 20 AS _mib, quote_literal(slot_name) AS _quoted
FROM (
    SELECT slot_name, coalesce(pg_wal_lsn_diff(
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
        restart_lsn), 0)::bigint AS held
    FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL) s
ORDER BY held DESC LIMIT 20
--! warning: the replication slot `{slot}` has no reader, and holds {_mib} MiB of the log
--! so the server removes no log that the slot has yet to send, until the disk is full
--! repair start its standby, or SELECT pg_drop_replication_slot({_quoted}); bound it by `max_slot_wal_keep_size`

--! check pg-archive on postgres: an archive that fails
SELECT failed_count AS failures, coalesce(last_failed_wal, '') AS file
FROM pg_stat_archiver
WHERE current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity')
--! warning: the archive fails: the last failure, of {failures}, was at `{file}`
--! so there is no later time to restore to, and the log stays until the disk is full
--! repair read the server's log for the error of `archive_command`, and repair it

--! check pg-single-copy on postgres: a database without a standby and an archive
SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_replication) AND NOT EXISTS (SELECT FROM pg_replication_slots)
    AND current_setting('archive_mode') = 'off'
--! note: the server has no standby and no archive
--! so a lost disk loses all events since the last backup
--! repair make backups, or archive the log (`archive_mode`), or run a standby

--! check pg-tls on postgres: a connection without TLS over a public network
SELECT host(inet_client_addr()) AS client, host(inet_server_addr()) AS server
WHERE NOT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
--! warning if _is_crossing: the connection to {server} has no TLS, and crosses a network that is not trusted
--! so every machine on the way can read events and passwords, and change them
--! repair `?sslmode=verify-full` in the URL, the cargo feature `tls` of eventstore-postgres, `ssl = on` at the server

--! check pg-hba on postgres: clients of a network that need no password, or send it in clear text
--! elsewhere: only a superuser may read the rules of pg_hba.conf: check as one
SELECT line_number AS line, type, auth_method AS method, coalesce(address, '') AS address,
    coalesce(netmask, '') AS netmask, auth_method = 'trust' AS _is_open, auth_method <> 'trust' AS _is_clear,
    concat_ws(' ', nullif(address, ''), nullif(netmask, ''), auth_method) AS _rule
FROM pg_hba_file_rules
WHERE type IN ('host', 'hostnossl', 'hostssl') AND NOT database <@ ARRAY['replication']
    AND (auth_method = 'trust' OR auth_method = 'password' AND type <> 'hostssl')
    AND address NOT IN ('samehost', 'localhost', '::1') AND address NOT LIKE '127.%'
ORDER BY line_number LIMIT 20
--! fault if _is_open: clients need no password: `{type} … {_rule}` (line {line} of pg_hba.conf)
--! so whichever program reaches the server can read, add and remove events, as each role
--! repair write `hostssl … scram-sha-256` in that line, then SELECT pg_reload_conf()
--! warning if _is_clear: clients send their passwords in clear text: `{type} … {_rule}` (line {line} of pg_hba.conf)
--! so every machine on the way can read the passwords
--! repair write `hostssl … scram-sha-256` in that line, then SELECT pg_reload_conf()

--! check pg-pooler on postgres: a pooler that shares sessions between transactions
--! warning: a pooler gives one session of the server (process {pid}) to several clients, by transaction
--! so before PgBouncer 1.21, or without its `max_prepared_statements`, statements fail; without `notify: false` of the store readers hear of no append, and poll
--! repair let the pooler pool sessions (`pool_mode = session`), or connect to the server directly; else set `max_prepared_statements` and `notify: false`, and leave this check out by `--skip pg-pooler`

--! check pg-rights-few on postgres_store: rights that the application lacks
SELECT {app_role} AS role
WHERE {app_role} IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {app_role})
--! not checked: there is no role `{role}`
WITH app AS (
    SELECT r.oid, r.rolname::text AS role FROM pg_roles r
    WHERE r.rolname = coalesce({app_role}, current_user)),
wanted (name, rights) AS (VALUES
 ('streams', 'SELECT INSERT UPDATE'), ('events', 'SELECT INSERT'), ('event_types', 'SELECT INSERT'),
 ('store', 'SELECT'), ('migrations', 'SELECT'),
 ('checkpoints', 'SELECT INSERT UPDATE DELETE'), ('notes', 'SELECT INSERT UPDATE DELETE'),
 ('leases', 'SELECT INSERT UPDATE'),
 ('deliveries', 'SELECT INSERT UPDATE DELETE'),
 ('handlers', 'SELECT INSERT UPDATE DELETE'), ('handler_shards', 'SELECT INSERT UPDATE DELETE'),
 ('handler_rows', 'SELECT INSERT UPDATE DELETE'), ('handler_members', 'SELECT INSERT UPDATE DELETE'),
 ('paused_groups', 'SELECT INSERT DELETE'),
 ('snapshots', 'SELECT INSERT UPDATE DELETE'), ('unique_values', 'SELECT INSERT UPDATE'),
 ('commands', 'SELECT INSERT UPDATE DELETE'), ('tags', 'SELECT INSERT UPDATE'),
 ('tagged_events', 'SELECT INSERT'),
 ('events_position_seq', 'USAGE'), ('streams_stream_no_seq', 'USAGE'),
 ('tags_tag_no_seq', 'USAGE')),
asked AS (
    SELECT c.oid, w.name, c.relkind, p AS privilege
    FROM wanted w
    JOIN pg_class c ON c.relname = w.name
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = {schema_text}
    CROSS JOIN regexp_split_to_table(w.rights, ' ') p),
missing (role, name, rights) AS (
    SELECT app.role, 'SCHEMA {schema}', 'USAGE'
    FROM app WHERE NOT has_schema_privilege(app.oid, {schema_text}, 'USAGE')
    UNION ALL
    SELECT app.role,
        CASE a.relkind WHEN 'S' THEN 'SEQUENCE {schema}.' ELSE '{schema}.' END || a.name,
        string_agg(a.privilege, ', ' ORDER BY a.privilege DESC)
    FROM app CROSS JOIN asked a
    WHERE CASE a.relkind WHEN 'S' THEN NOT has_sequence_privilege(app.oid, a.oid, a.privilege)
        ELSE NOT has_table_privilege(app.oid, a.oid, a.privilege) END
    GROUP BY app.role, a.relkind, a.name)
SELECT role, jsonb_agg(rights || ' on ' || name ORDER BY name) AS missing,
    string_agg(rights || ' on ' || name, ', ' ORDER BY name) AS _list,
    string_agg('GRANT ' || rights || ' ON ' || name || ' TO "' || role || '";', ' ' ORDER BY name)
        AS _grants
FROM missing GROUP BY role
--! fault: the role `{role}` lacks rights: {_list}
--! so the application fails later, in the one operation that needs the right
--! repair {_grants}

--! check pg-rights-many on postgres_store: rights to change or remove events
WITH tables AS (
    SELECT p.relname AS name, c.oid, c.relname, c.relowner, c.relacl
    FROM pg_class p
    JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = {schema_text}
    -- each partition has rights of its own
    JOIN pg_class c ON c.oid = p.oid
        OR p.relkind = 'p' AND c.oid IN (SELECT l.relid FROM pg_partition_tree(p.oid) l)
    WHERE p.relkind IN ('r', 'p') AND NOT p.relispartition),
granted AS (
    SELECT t.oid, t.relname, a.grantee, a.privilege_type
    FROM tables t CROSS JOIN aclexplode(t.relacl) a
    WHERE a.grantee <> t.relowner
      AND (t.name = 'events' AND a.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')
        OR t.name IN ('streams', 'event_types', 'tagged_events', 'store')
           AND a.privilege_type IN ('DELETE', 'TRUNCATE')
        OR a.grantee = 0 AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'))
    UNION
    SELECT t.oid, t.relname, a.grantee, a.privilege_type || ' (' || c.attname || ')'
    FROM tables t
    JOIN pg_attribute c ON c.attrelid = t.oid AND c.attname <> 'tags'
    CROSS JOIN aclexplode(c.attacl) a
    WHERE t.name = 'events' AND a.grantee <> t.relowner AND a.privilege_type = 'UPDATE')
SELECT coalesce(r.rolname::text, 'PUBLIC') AS role, g.relname::text AS table, rights, full_name AS _full_name,
    coalesce('"' || r.rolname || '"', 'PUBLIC') AS _grantee
FROM (
    SELECT grantee, relname, oid::regclass::text AS full_name,
        string_agg(privilege_type, ', ' ORDER BY privilege_type) AS rights
    FROM granted GROUP BY 1, 2, 3) g
LEFT JOIN pg_roles r ON r.oid = g.grantee
ORDER BY 1, 2 LIMIT 20
--! warning: `{role}` has {rights} on `{table}`
--! so software that is not the store can change what has happened, and no reader notices
--! repair REVOKE {rights} ON {_full_name} FROM {_grantee}

--! check pg-superuser on postgres: an application that connects as a superuser
SELECT rolname::text AS role FROM pg_roles WHERE rolname = coalesce({app_role}, current_user) AND rolsuper
--! note: the role `{role}` is a superuser
--! so no right limits it: a mistake or an attacker can change events, and the server's files
--! repair create a role with the grants of SECURITY.md, and connect as that one

--! check pg-tables on postgres: tables that are missing, or none at all
SELECT jsonb_agg(t ORDER BY t) AS missing, string_agg(t, '`, `' ORDER BY t) AS _list,
    NOT bool_or(t = 'events') AS _has_events, bool_or(t = 'events') AS _is_none
FROM (SELECT DISTINCT w.t::text FROM (VALUES {indexes}) w (t, n, c, u)) w
WHERE NOT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE s.nspname = {schema_text} AND c.relname = w.t AND c.relkind IN ('r', 'p'))
--! fault if _has_events: schema `{schema_name}` lacks tables: `{_list}`
--! so the store cannot work, or fails in the operations that need the tables
--! repair run the migrations; if they were run, restore the tables from a backup
--! fault if _is_none: schema `{schema_name}` holds no store: it lacks `events`
--! so the store cannot work, or fails in the operations that need the tables
--! repair give the right database and schema, or run the migrations

--! check pg-release on postgres_store: tables of a different release
SELECT version, name, kind FROM {table migrations} ORDER BY version
--! fault if _is_breaking: the tables have the {kind} migration {version} `{name}`; this release knows {known}
--! so this release refuses to start
--! repair run one release everywhere: deploy the newer one to this process, too
--! warning if _is_newer: the tables have the {kind} migration {version} `{name}`; this release knows {known}
--! so a newer release works on these tables: two releases are at work until all are deployed
--! repair run one release everywhere: deploy the newer one to this process, too
--! warning if _is_older: the tables lack migrations of this release: {_list}
--! so a process of this release that does not migrate refuses to start
--! repair run the migrations, with a role that owns the tables

--! check pg-sequence on postgres_store: a sequence of positions with a cache, a step or a cycle
SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {schema_text} AND c.relname = 'events_position_seq'
    AND (s.seqcache, s.seqincrement, s.seqcycle) IS DISTINCT FROM (1, 1, false)
--! fault: `events_position_seq` has CACHE {cache}, INCREMENT {increment}, CYCLE {cycle}
--! so positions come out of order, so that readers of the feed skip events for good
--! repair ALTER SEQUENCE {schema}.events_position_seq CACHE 1 INCREMENT 1 NO CYCLE

--! check pg-sequence-behind on postgres_store: sequences that would give a number again
SELECT sequence, drawn::text, stored::text, t AS _table, c AS _column,
    drawn IS NULL AS _is_hidden, coalesce(drawn < stored, false) AS _is_behind
FROM (
    SELECT w.*,
        -- newer servers return no value to a role without the right, instead of an error
        CASE WHEN has_sequence_privilege(k.oid, 'USAGE, SELECT')
            THEN coalesce(pg_sequence_last_value(k.oid), 0) END AS drawn
    FROM (VALUES
        ('events_position_seq', 'events', 'position', (SELECT max(position) FROM {table events})),
        ('streams_stream_no_seq', 'streams', 'stream_no', (SELECT max(stream_no) FROM {table streams})),
        ('tags_tag_no_seq', 'tags', 'tag_no', (SELECT max(tag_no) FROM {table tags})))
        w (sequence, t, c, stored)
    JOIN pg_class k ON k.relname = w.sequence
    JOIN pg_namespace n ON n.oid = k.relnamespace AND n.nspname = {schema_text}) s
WHERE drawn IS NULL OR drawn < stored
--! not checked if _is_hidden: the role may not read the sequence `{sequence}`: GRANT SELECT ON SEQUENCE {schema}.{sequence} to it
--! fault if _is_behind: the sequence `{sequence}` is at {drawn}, and {stored} is stored already
--! so the next appends fail, or take numbers that readers have passed; it was restored without its state
--! repair stop all writers, then SELECT setval('{schema}.{sequence}', (SELECT max({_column}) FROM {schema}.{_table}))

--! check pg-index on postgres_store: indexes that are missing or invalid
WITH wanted (t, name, columns, is_unique) AS (VALUES {indexes}),
tables AS (
    -- of a partitioned table each partition has the indexes, under its own name
    SELECT w.t, w.columns, w.is_unique, c.oid,
        quote_ident(c.relname || substr(w.name, length(w.t) + 1)) AS name
    FROM wanted w
    JOIN pg_class p ON p.relname = w.t
    JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = {schema_text}
    JOIN pg_class c ON c.oid = p.oid AND c.relkind = 'r'
        OR p.relkind = 'p' AND c.relkind = 'r'
            AND c.oid IN (SELECT l.relid FROM pg_partition_tree(p.oid) l)),
found AS (
    SELECT i.indrelid, i.indexrelid::regclass::text AS name, i.indisunique,
        i.indisvalid AND i.indisready AND i.indislive AS is_valid,
        -- by this name the store knows a repeated append
        (SELECT x.relname FROM pg_class x WHERE x.oid = i.indexrelid) LIKE '%\_event\_id\_key' AS is_id_key,
        (SELECT string_agg(a.attname, ',' ORDER BY k.o)
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY k (n, o)
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
         WHERE k.o <= i.indnkeyatts) AS columns
    FROM pg_index i WHERE i.indrelid IN (SELECT oid FROM tables))
SELECT t.oid::regclass::text AS table, t.name::text AS index, replace(t.columns, ',', ', ') AS columns, o.name AS other,
    o.name IS NOT NULL AND o.is_sound AND NOT o.is_id_key AS _is_misnamed,
    o.name IS NOT NULL AND NOT (o.is_sound AND NOT o.is_id_key) AS _is_unusable, o.name IS NULL AS _is_missing,
    t.is_unique AS _is_unique, NOT t.is_unique AS _is_plain
FROM tables t
LEFT JOIN LATERAL (
    SELECT f.name, f.is_valid AND (f.indisunique OR NOT t.is_unique) AS is_sound, f.is_id_key
    FROM found f WHERE f.indrelid = t.oid AND f.columns = t.columns
    ORDER BY 2 DESC, 3 DESC LIMIT 1) o ON true
WHERE NOT coalesce(o.is_sound AND (o.is_id_key OR t.columns <> 'event_id,stream_no'), false)
ORDER BY 1, 2
--! fault if _is_misnamed: the index `{other}` on `{table}` ({columns}) has not the name `{index}`
--! so a repeated append fails, where it should return its first result
--! repair ALTER INDEX {other} RENAME TO {index}
--! fault if _is_unusable and _is_unique: the index `{other}` on `{table}` ({columns}) is not usable
--! so the store cannot keep its promises: two writers can store the same thing
--! repair REINDEX INDEX CONCURRENTLY {other}; if it is not unique, drop it and make `{index}` anew
--! fault if _is_missing and _is_unique: `{table}` lacks the index `{index}` on ({columns})
--! so the store cannot keep its promises: two writers can store the same thing
--! repair CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({columns})
--! warning if _is_unusable and _is_plain: the index `{other}` on `{table}` ({columns}) is not usable
--! so statements read the whole table, and become slower with each row
--! repair REINDEX INDEX CONCURRENTLY {other}; if it is not unique, drop it and make `{index}` anew
--! warning if _is_missing and _is_plain: `{table}` lacks the index `{index}` on ({columns})
--! so statements read the whole table, and become slower with each row
--! repair CREATE INDEX CONCURRENTLY {index} ON {table} ({columns})

--! check pg-unlogged on postgres_store: tables that a crash empties
SELECT c.oid::regclass::text AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p') AND c.relpersistence <> 'p' ORDER BY 1
--! fault: `{table}` is unlogged
--! so a crash of the server empties the table, and no standby has it
--! repair ALTER TABLE {table} SET LOGGED

--! check pg-dead-rows on postgres_store: bloated tables
SELECT relid::regclass::text AS table, n_dead_tup AS dead, n_live_tup AS live FROM pg_stat_user_tables
WHERE schemaname = {schema_text} AND n_dead_tup > {dead_rows} AND n_dead_tup > {dead_rows_share} * n_live_tup
ORDER BY n_dead_tup DESC
--! warning: `{table}` has {dead} dead rows beside {live} live ones
--! so the table grows on disk, and each read of it takes longer
--! repair VACUUM (ANALYZE) {table}; then find what holds vacuum: a long transaction, a setting

--! check pg-autovacuum on postgres_store: tables that are not vacuumed
SELECT name AS setting, {repair_of_setting} AS _repair
FROM pg_settings WHERE setting = 'off' AND name IN ('autovacuum', 'track_counts') ORDER BY 1
--! warning: `{setting}` is off
--! so dead rows stay for ever: the tables grow, and at last the server refuses writes
--! repair {_repair}
SELECT c.oid::regclass::text AS table
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN unnest(c.reloptions) o
WHERE n.nspname = {schema_text} AND o ~* '^autovacuum_enabled=(off|false|no|0)$' ORDER BY 1
--! warning: `{table}` is not vacuumed
--! so dead rows stay for ever: the tables grow, and at last the server refuses writes
--! repair ALTER TABLE {table} RESET (autovacuum_enabled)

--! check pg-foreign-logic on postgres_store: triggers, rules and row security
WITH tables AS (
    SELECT c.oid, c.relrowsecurity, c.oid::regclass::text AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p')),
found (kind, "table", name, _repair) AS (
    SELECT 'row security', name, '', format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', name)
    FROM tables WHERE relrowsecurity
    UNION ALL
    SELECT 'a rule', t.name, r.rulename::text, format('DROP RULE %I ON %s', r.rulename, t.name)
    FROM pg_rewrite r JOIN tables t ON t.oid = r.ev_class
    UNION ALL
    SELECT 'a trigger', t.name, g.tgname::text, format('DROP TRIGGER %I ON %s', g.tgname, t.name)
    FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal)
SELECT *, coalesce(' `' || nullif(name, '') || '`', '') AS _named FROM found ORDER BY 1, 2, 3 LIMIT 20
--! warning: `{table}` has {kind}{_named}, which is none of the store's
--! so it can hide, change or refuse rows, so that events are lost without an error
--! repair {_repair}

--! check pg-missing-events on postgres_store: missing events of the newest streams
SELECT s.aggregate_type, s.aggregate_id, s.version, s.version - s.archived_through AS wanted, count(e.version) AS found
FROM (
    SELECT * FROM {table streams} WHERE kind = 0 AND version - archived_through <= {sampled_versions}
    ORDER BY stream_no DESC LIMIT {sampled_streams}) s
LEFT JOIN {table events} e ON e.stream_no = s.stream_no AND e.version > s.archived_through
GROUP BY s.stream_no, s.aggregate_type, s.aggregate_id, s.version, s.archived_through
HAVING count(e.version) <> s.version - s.archived_through OR coalesce(max(e.version), s.version) <> s.version
ORDER BY s.stream_no LIMIT 20
--! fault if _is_damaged: {_number} streams do not have the events of their version: {_list}
--! so software that is not the store has removed or added events: loads of these aggregates fail, and readers stop
--! repair restore the events from a backup; what was archived on purpose is noted in `archived_through`

--! deep check pg-missing-events-all on postgres_store: missing events of all streams
--! as pg-missing-events

--! check pg-checkpoint-ahead on postgres_store: readers that are ahead of the store
SELECT c.name, CAST(c.position AS text) AS at, CAST(h.position AS text) AS head,
    'UPDATE {table checkpoints} SET position = ' || h.position || ' WHERE name = ''' || replace(c.name, '''', '''''')
        || ''' AND position > ' || h.position AS _set_back
FROM {table checkpoints} c, (SELECT coalesce(max(position), 0) AS position FROM {table events}) h
WHERE c.position > h.position
    -- the checkpoint of a move is a position of the other store; the checkpoint of a halted relay may be ahead
    AND c.name NOT LIKE 'import:%' AND c.name NOT LIKE 'relay-halted:%'
ORDER BY c.name LIMIT 20
--! fault: the checkpoint `{name}` is at position {at}, and the store ends at {head}
--! so the store came back from an older copy: the reader skips the next events, which take these positions
--! repair stop the reader, and compare with what it has written; rebuild the projection, or set the checkpoint to the head: {_set_back}

--! check pg-orphaned-checkpoint on postgres_store: checkpoints that no process moves
SELECT c.name, CAST(c.position AS text) AS at, CAST(h.position AS text) AS head,
    {now} - {seconds c.updated_at} AS seconds
FROM {table checkpoints} c, (SELECT coalesce(max(position), 0) AS position FROM {table events}) h
WHERE c.position < h.position
    AND c.name LIKE 'projection:%'
    AND {now} - {seconds c.updated_at} > {abandoned}
    AND NOT EXISTS (SELECT 1 FROM {table leases} l WHERE l.role = c.name AND {seconds l.expires_at} > {now})
    -- an event waits for the reader for as long
    AND {now} - (
        SELECT {seconds e.recorded_at} FROM {table events} e
        WHERE e.position > c.position ORDER BY e.position LIMIT 1) > {abandoned}
ORDER BY c.updated_at LIMIT 20
--! warning: the checkpoint `{name}` is at {at} of {head}, and has not moved for {seconds:.0} s
--! so its reader does not run, or has a different name now: its read model is out of date
--! repair start the process with that reader; if it is gone for good: `eventbus projections retire`

--! check pg-abandoned-role on postgres_store: roles without an owner: a relay or projection that does not run
SELECT role, owner, {now} - ended AS seconds,
    CASE WHEN role LIKE 'relay:%' THEN 'relay' ELSE 'projections' END AS _retire
FROM (SELECT role, owner, {lease_end} AS ended FROM {table leases}) l
-- other roles are those of single commands: they end with them
WHERE (role LIKE 'projection:%' OR role LIKE 'relay:%')
    AND owner <> {retired}
    AND {now} - ended > {abandoned}
    -- without events since, the whole application may rest
    AND ended < (SELECT {seconds e.recorded_at} FROM {table events} e ORDER BY e.position DESC LIMIT 1)
ORDER BY ended LIMIT 20
--! warning: no process has had the role `{role}` for {seconds:.0} s (the last one: `{owner}`)
--! so events are saved, and the relay or projection of that role does not run
--! repair start the process that has it; if the role is gone for good: `eventbus {_retire} retire`

--! check pg-event-types on postgres_types: stored event types and versions that this program does not know
SELECT event_type, max(schema_version) AS schema_version FROM {table event_types} GROUP BY event_type ORDER BY 1
--! warning if _is_unknown: events of types that this program does not know are stored: `{_list}`
--! so a load of their aggregates fails, and no handler of this program gets them
--! repair if an event was renamed, add `#[event(was(".."))]` with the stored type to it; else deploy the release that declares the event; `retired("..")` on its aggregate skips stored events, and their effect on the state is lost
--! warning if _is_newer: events of newer schema versions than this program knows are stored: `{_list}`
--! so this program cannot decode them: loads and handlers fail until its newer release runs
--! repair deploy the newer release everywhere: first the processes that read, then those that save

--! check pg-dead-letter-age on postgres_store: dead letters that are older than the inbox remembers
SELECT {now} - {seconds min(dead_since)} AS age FROM {table handler_rows} WHERE dead_since IS NOT NULL
--! warning if _is_forgotten: the oldest dead letter is {_days} days old, and the inbox remembers {_retention_days} days
--! so a replay repeats effects of handlers that had succeeded with the event
--! repair replay or discard it after checking its effects; let `inbox_retention` of the app be longer

--! check pg-event-times on postgres_store: events that occurred after they were recorded
SELECT * FROM (
    SELECT position::text, {seconds occurred_at - recorded_at} AS seconds
    FROM (SELECT * FROM {table events} ORDER BY position DESC LIMIT 1000) e) e
WHERE seconds > {clock_skew} ORDER BY seconds DESC LIMIT 1
--! warning: the event at position {position} occurred {seconds:.1} s after it was recorded
--! so the clock of the process that saved it is ahead: its times are wrong for people and reports
--! repair let NTP set the clocks of all machines; if the application sets `occurred_at`, correct it there

--! check redis-server on redis: a server that the bus refuses: version, replica, read-only
--! fault if _is_old: the server is Redis {version}
--! so commands of bus and store fail there
--! repair upgrade the server to Redis 7.0 or newer
--! fault if _is_replica and _of_store: the server is a replica of {primary} (link {link})
--! so it refuses every write: no save succeeds
--! repair connect to the primary; after a failover, to the new one
--! fault if _is_replica and _of_bus: the server is a replica of {primary} (link {link})
--! so it refuses every write: nothing is published, and no entry is acknowledged
--! repair connect to the primary; after a failover, to the new one

--! check redis-eviction on redis: keys that the server removes when memory is full
--! note if _is_volatile: `maxmemory-policy` is `{policy}`
--! so when memory is full the server removes keys with an expiry; the bus's streams have none
--! repair CONFIG SET maxmemory-policy noeviction, and the same in redis.conf
--! fault if _is_any: `maxmemory-policy` is `{policy}`
--! so when memory is full the server removes streams whole, with every entry and group
--! repair CONFIG SET maxmemory-policy noeviction, and the same in redis.conf
--! fault if _has_evicted and _of_store: the server has evicted {evicted_keys} keys since it started
--! so stored events may be among them, and nothing brings these back
--! repair search with `eventbus doctor --only redis-store-missing-events-all`; give the server more memory
--! warning if _has_evicted and _of_bus: the server has evicted {evicted_keys} keys since it started
--! so streams of the bus may be among them; the relay publishes its events again, others are lost
--! repair compare dead letters and groups with what you expect; give the server more memory

--! check redis-memory on redis: memory that is nearly full, or without a limit
--! note if _is_unlimited: `maxmemory` is not set
--! so the system ends the server when the machine's memory is full, instead of refusing writes
--! repair CONFIG SET maxmemory to about three quarters of the machine's memory, with `noeviction`
--! warning if _is_full and _of_store: {_used} of {_most} MiB of memory are in use
--! so when memory is full the server refuses every save
--! repair raise `maxmemory`; nothing may trim the streams of a store
--! warning if _is_full and _of_bus: {_used} of {_most} MiB of memory are in use
--! so when memory is full the server refuses to publish: the relay stops, and handlers get no event
--! repair trim the streams (`trim_max_length`), retire groups that hold them, or raise `maxmemory`

--! check redis-aof on redis: entries that a crash loses: no append-only file, or a failing one
--! fault if _is_off and _of_store: the server has no append-only file
--! so a crash loses every event since the last snapshot
--! repair CONFIG SET appendonly yes, and the same in redis.conf
-- the bus gets the events again from its relay
--! warning if _is_off and _of_bus: the server has no append-only file
--! so a crash loses every entry since the last snapshot, with groups, retries and dead letters; the relay publishes the events of its store again, so that consumers get some twice
--! repair CONFIG SET appendonly yes, and the same in redis.conf
--! fault if _has_failed: the last write of the append-only file failed ({aof_last_write_status})
--! so the server refuses every write until it can write the file again
--! repair free space on its disk, and read its log
--! warning if _is_late and _of_store: `appendfsync` is `{appendfsync}`: a crash of the machine loses {_lost} of acknowledged writes
--! so saves that have returned are gone
--! repair CONFIG SET appendfsync always, and the same in redis.conf
-- the default of Redis, and bearable for a bus
--! note if _is_late and _of_bus: `appendfsync` is `{appendfsync}`: a crash of the machine loses {_lost} of acknowledged writes
--! so the relay publishes the events of its store again, so that consumers get some twice
--! repair CONFIG SET appendfsync always, and the same in redis.conf

--! check redis-snapshot on redis: a snapshot or rewrite that failed
--! warning: `{field}` is `{status}`
--! so there is no newer snapshot, the append-only file grows, and the server may refuse writes
--! repair read the server's log: mostly its disk is full, its folder is gone, or memory is too small to fork

--! check redis-replica on redis: replicas that are missing or behind
--! fault if _is_refusing and _of_store: `min-replicas-to-write` is {min_replicas_to_write}, and {good} replicas are connected and up to date
--! so the server refuses every write with NOREPLICAS: no save succeeds
--! repair start the replicas, or lower `min-replicas-to-write`
--! fault if _is_refusing and _of_bus: `min-replicas-to-write` is {min_replicas_to_write}, and {good} replicas are connected and up to date
--! so the server refuses every write with NOREPLICAS: nothing is published
--! repair start the replicas, or lower `min-replicas-to-write`
--! note if _is_single and _of_store: the server has no replica
--! so if the machine or its disk is lost, so is every event since the last backup
--! repair run a replica (`replicaof`), with a failover that clients follow
--! note if _is_single and _of_bus: the server has no replica
--! so if the machine or its disk is lost, so are groups, retries and dead letters
--! repair run a replica (`replicaof`), with a failover that clients follow
--! warning if _is_early and _of_store: writes are acknowledged before a replica has them
--! so a failover loses acknowledged writes that no replica had
--! repair CONFIG SET min-replicas-to-write 1, and the same in redis.conf
-- a bus gets the events again from its relay
--! note if _is_early and _of_bus: writes are acknowledged before a replica has them
--! so a failover loses acknowledged writes that no replica had
--! repair CONFIG SET min-replicas-to-write 1, and the same in redis.conf
--! warning if _is_behind: a replica is not up to date: `{state}`
--! so a failover to it loses what it does not have
--! repair read the replica's log; raise `repl-backlog-size` if it loads all data again and again

--! check redis-connections on redis: connections that are nearly used up
--! warning if _is_full: {used} of {max} connections are in use
--! so the next process cannot connect, and a bus that lost its connections neither
--! repair find clients that do not close theirs (CLIENT LIST), or CONFIG SET maxclients higher

--! check redis-clock on redis: a clock that differs from this machine's
--! as pg-clock

--! check redis-disk on redis: a disk that is nearly full, if the server is on this machine
--! as pg-disk

--! check redis-tls on redis: a connection without TLS over a public network
--! warning: the connection to {server} has no TLS, and crosses a network that is not trusted
--! so every machine on the way can read events and passwords, and change them
--! repair `rediss://` in the URL, the cargo feature `tls` of eventbus-redis, `tls-port` at the server

--! check redis-exposed on redis: a server that takes every client of a network without a password
--! fault: the server listens on `{bind}`, and the user `default` needs no password
--! so whichever program reaches the server can read, add and remove entries, and empty it
--! repair ACL SETUSER default off, and a user with a password for the application; or `protected-mode yes`

--! check redis-rights-few on bus: rights that the bus lacks
--! fault: the user lacks rights for {_list}: {_detail}
--! so the bus fails later, in the one operation that needs the right
--! repair ACL SETUSER {_user} ~{_prefix}:* ~{_open}{_prefix}:* +@stream +@hash +@connection +@transaction +@scripting +exists +del +time

--! check redis-store-rights-few on redis_store: rights that a store on Redis lacks
-- adds to the rights of the user, who may also have the rights of a bus
--! note if _is_durability: the user lacks rights for {_list} on the keys `{_keys}`
--! so the store cannot check which settings of the server lose data in a crash
--! repair ACL SETUSER {_user} ~{_keys} {_rights}
--! fault if _is_other: the user lacks rights for {_list} on the keys `{_keys}`
--! so the store does not open, or fails later, in the one operation that needs the right
--! repair ACL SETUSER {_user} ~{_keys} {_rights}

--! check redis-rights-many on redis: a user that may run every command
--! note: the user `{user}` may run every command: `{commands}`
--! so no right limits it: a mistake or an attacker can empty the server (FLUSHALL) or stop it
--! repair create a user with the rights that the README of eventbus-redis names, and connect as that one

--! check redis-format on bus: keys of a newer release
--! fault if _is_nameless: `{key}` names no format: `{format}`, `{min_reader}`
--! so no release starts
--! repair HDEL {key} format min_reader, if the keys are of one release
--! fault if _is_refused: the keys have format {format}, readable from {min_reader} on; this release knows {known}
--! so this release refuses to start
--! repair run one release everywhere: deploy the newer one to this process, too
--! warning if _is_other: the keys have format {format}, readable from {min_reader} on; this release knows {known}
--! so a newer release works on these keys: two releases are at work until all are deployed
--! repair run one release everywhere: deploy the newer one to this process, too

--! check redis-store-format on redis_store: a prefix without a store, or keys of a store of a newer release
--! as redis-format
--! fault if _is_missing: the server holds no store with the prefix `{_prefix}`
--! so the store cannot be read; an application with this prefix begins a new, empty one
--! repair give the `key_prefix` of the application by `--store-prefix`; if the store was there, restore it from a backup

--! check group-unattended on bus: groups with waiting entries and no live consumer
--! warning: the group `{group}` of `{stream}` has no live consumer: {pending} entries pending, {_unread} unread, the oldest for {oldest_seconds} s
--! so no process handles these events, and the stream keeps them
--! repair start the service with that group; if it is gone for good: `eventbus groups retire`

--! check group-holds-trim on bus: groups that keep the stream from being trimmed
--! warning if _is_held: the group `{group}` keeps `{stream}` from being trimmed: it has not finished an entry that is {oldest_seconds} s old
--! so the stream grows until Redis is out of memory
--! repair start the group's consumers, or find what fails there; if it is gone for good: `eventbus groups retire`

--! check group-lost-entries on bus: entries that were removed before a group read them
--! fault if _has_lost: {lost} entries of `{stream}` were removed before the group `{group}` had read them
--! so the group has not handled these events; if they are in a store, its relay can publish them again: `eventbus relay republish`
--! repair find what trims the stream (XTRIM, XADD with MAXLEN) and stop it; `bus.trim` waits for the groups

--! check bus-missing on bus: a prefix without a bus
--! warning if _is_missing: the server holds no bus with the prefix `{_prefix}`
--! so no group and no dead letter was examined
--! repair give the `stream_prefix` of the application by `--prefix`, or start the application once

--! check redis-dead-letters on bus: dead letters
--! note if _has_some: there {_are}
--! so their events are not handled, and later events of their aggregates were handled without them
--! repair `eventbus dead-letters list`, repair the cause, then replay or discard them

--! check redis-dead-letter-age on bus: dead letters that are older than the inbox remembers
--! as pg-dead-letter-age

--! deep check redis-store-missing-events-all on redis_store: missing events of all streams
--! fault: {_found}
--! so software that is not the store has removed or added events: loads of these aggregates fail, and readers stop
--! repair restore the keys from a backup

--! check redis-store-checkpoint-ahead on redis_store: readers that are ahead of the store
--! as pg-checkpoint-ahead

--! check redis-store-abandoned-role on redis_store: roles without an owner: a relay or projection that does not run
--! as pg-abandoned-role

--! check redis-store-event-types on redis_types: stored event types and versions that this program does not know
--! as pg-event-types

--! check redis-store-dead-letter-age on redis_store: dead letters that are older than the inbox remembers
--! as pg-dead-letter-age

--! check relay-ahead on bus_and_store: a bus that has events of later positions than the store
--! fault if _is_ahead: `{_stream}` has events of this store up to position {published}, and the store ends at {head}
--! so the store came back from an older copy: the relay stops, and consumers of the stream have seen events that are gone
--! repair `eventbus relay republish`, which publishes the events after the last one that stream and store share

--! check relay-stalled on bus_and_store: events that the relay does not publish
--! note if _is_absent: no relay has published events of this store to `{_stream}`
--! so unless the programs publish by `publish_to`, no consumer of the stream gets an event
--! repair start a process with the relay; programs that publish by `publish_to` have none
--! fault if _is_stalled: the event at position {_position} has not been published for {seconds:.0} s (the head is {head})
--! so no relay runs, or it stops there: no handler gets this event and the later ones
--! repair start a process with the relay; if one runs, its status and log name the error

--! check relay-other-store on bus_and_store: a bus that belongs to a different store
--! note if _is_shared: `{_stream}` also has events of other stores: {_list}
--! so unless each application says `share_stream`, the relay of this store refuses the stream
--! repair if it is a former database: HDEL {_relay} ID; else a `stream_prefix` for each store, or `share_stream` everywhere

--! check sqlite-store on sqlite: a file without a store, or of a different release
--! as pg-release
--! fault if _is_missing: `{path}` holds no store: it lacks `eventbus_events`
--! so the store cannot be read; opening it makes new, empty tables
--! repair give the right file, or restore it from a backup
--! fault if _is_damaged: `{path}` is damaged, or no database of SQLite: {_error}
--! so reads fail or return wrong rows, and writes may damage more of it
--! repair stop the application, keep a copy, and restore a backup; `.recover` of the sqlite3 shell saves the rest

--! check sqlite-journal on sqlite: a file that is not in WAL mode
PRAGMA journal_mode
--! warning if _is_other: the file is in the journal mode `{journal_mode}`
--! so a program has changed it: readers and writers block each other until a store opens the file
--! repair open the store, which sets `journal_mode = WAL`; find the program that changes it

--! check sqlite-wal-size on sqlite: a write-ahead log that only grows
--! warning if _is_long: the write-ahead log of the file has {_mib} MiB
--! so every read takes longer, and the log grows until the disk is full
--! repair end the program that keeps a read transaction open; then PRAGMA wal_checkpoint(TRUNCATE)

--! check sqlite-disk on sqlite: a disk that is nearly full
--! as pg-disk
--! check sqlite-index on sqlite: indexes and triggers that are missing
SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND name LIKE 'eventbus%'
--! fault if _lacks: the file lacks indexes or triggers of the store: `{_list}`
--! so without an index statements read whole tables; without a trigger a deleted row lets a number be used again, and readers miss an event
--! repair make them again as the migrations of eventstore-sqlite do

--! check sqlite-missing-events on sqlite: missing events of the newest streams
--! as pg-missing-events
--! check sqlite-checkpoint-ahead on sqlite: readers that are ahead of the store
--! as pg-checkpoint-ahead
--! check sqlite-orphaned-checkpoint on sqlite: checkpoints that no process moves
--! as pg-orphaned-checkpoint
--! check sqlite-abandoned-role on sqlite: roles without an owner: a relay or projection that does not run
--! as pg-abandoned-role
--! check sqlite-event-types on sqlite_types: stored event types and versions that this program does not know
--! as pg-event-types
--! check sqlite-dead-letter-age on sqlite: dead letters that are older than the inbox remembers
--! as pg-dead-letter-age
--! deep check sqlite-integrity on sqlite: a damaged file
--! fault if _has_problems: the file is damaged, {_number} problems: {_first}
--! so reads fail or return wrong rows, and writes may damage more of it
--! repair stop the application, keep a copy, and restore a backup; `.recover` of the sqlite3 shell saves the rest
--! fault if _is_damaged: `{path}` is damaged, or no database of SQLite: {_error}
--! so reads fail or return wrong rows, and writes may damage more of it
--! repair stop the application, keep a copy, and restore a backup; `.recover` of the sqlite3 shell saves the rest

--! deep check sqlite-missing-events-all on sqlite: missing events of all streams
--! as pg-missing-events
