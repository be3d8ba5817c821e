-- The checks of the doctor, in the order in which it makes them.
--
-- Lines that begin with `--!` describe a check, the others are its statements:
--
--   check NAME on SUBJECT: FINDS   a check; a deep one reads whole tables. Code makes one without statements (`code.rs`)
--   fault, warning, note: TEXT     each row of the statement above is a finding with this text, its consequence (`so`) and
--                                  its repair; with `if COLUMN` only a row for which the column is true
--   not checked: TEXT              each row is a part that could not be checked
--   elsewhere: TEXT                if the role may not run the statement, the check belongs elsewhere
--   as NAME                        a check with the statements of the check NAME
--   define NAME                    a part of statements, which write `{NAME}` for it
--
-- A function judges all rows of a statement without texts (`code.rs`). In a text a name in braces is a column of the row;
-- the report shows columns whose names do not begin with `_`. In a statement it is a threshold of the configuration, or
-- what differs between PostgreSQL and SQLite: `{table NAME}`, `{seconds TIME}`, `{now}`, `{lease_end}`, `{uuid COLUMN}`.

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

--! check pg-disk on postgres: a disk that is nearly full, if the server is on this machine

--! check pg-sync-standby on postgres: commits that wait for a standby which is not there
SELECT current_setting('synchronous_standby_names') AS names,
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS connected,
    count(*) FILTER (WHERE sync_state IS NULL) AS hidden
FROM pg_stat_replication

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
SELECT t.oid::regclass::text AS table, t.name::text AS name, t.columns::text, t.is_unique, o.name AS other,
    coalesce(o.is_sound AND NOT o.is_id_key, false) AS is_misnamed
FROM tables t
LEFT JOIN LATERAL (
    SELECT f.name, f.is_valid AND (f.indisunique OR NOT t.is_unique) AS is_sound, f.is_id_key
    FROM found f WHERE f.indrelid = t.oid AND f.columns = t.columns
    ORDER BY 2 DESC, 3 DESC LIMIT 1) o ON true
WHERE NOT coalesce(o.is_sound AND (o.is_id_key OR t.columns <> 'event_id,stream_no'), false)
ORDER BY 1, 2

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

--! deep check pg-missing-events-all on postgres_store: missing events of all streams
--! as pg-missing-events

--! check pg-checkpoint-ahead on postgres_store: readers that are ahead of the store
SELECT c.name, c.position AS at, h.position AS head,
    'UPDATE {table checkpoints} SET position = ' || h.position || ' WHERE name = ''' || replace(c.name, '''', '''''')
        || ''' AND position > ' || h.position AS set_back
FROM {table checkpoints} c, (SELECT coalesce(max(position), 0) AS position FROM {table events}) h
WHERE c.position > h.position ORDER BY c.name

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
SELECT role, owner, {now} - ended AS seconds
FROM (SELECT role, owner, {lease_end} AS ended FROM {table leases}) l
-- other roles are those of single commands: they end with them
WHERE (role LIKE 'projection:%' OR role LIKE 'relay:%')
    AND owner <> {retired}
    AND {now} - ended > {abandoned}
    -- without events since, the whole application may rest
    AND ended < (SELECT {seconds e.recorded_at} FROM {table events} e ORDER BY e.position DESC LIMIT 1)
ORDER BY ended LIMIT 20

--! check pg-event-types on postgres_types: stored event types and versions that this program does not know
SELECT event_type, max(schema_version) AS schema_version FROM {table event_types} GROUP BY event_type ORDER BY 1

--! check pg-dead-letter-age on postgres_store: dead letters that are older than the inbox remembers
SELECT {now} - {seconds min(dead_since)} AS age FROM {table handler_rows} WHERE dead_since IS NOT NULL

--! check pg-event-times on postgres_store: events that occurred after they were recorded
SELECT * FROM (
    SELECT position::text, {seconds occurred_at - recorded_at} AS seconds
    FROM (SELECT * FROM {table events} ORDER BY position DESC LIMIT 1000) e) e
WHERE seconds > {clock_skew} ORDER BY seconds DESC LIMIT 1
--! warning: the event at position {position} occurred {seconds:.1} s after it was recorded
--! so the clock of the process that saved it is ahead: its times are wrong for people and reports
--! repair let NTP set the clocks of all machines; if the application sets `occurred_at`, correct it there

--! check redis-server on redis: a server that the bus refuses: version, replica, read-only
--! check redis-eviction on redis: keys that the server removes when memory is full
--! check redis-memory on redis: memory that is nearly full, or without a limit
--! check redis-aof on redis: entries that a crash loses: no append-only file, or a failing one
--! check redis-snapshot on redis: a snapshot or rewrite that failed
--! check redis-replica on redis: replicas that are missing or behind
--! check redis-connections on redis: connections that are nearly used up
--! check redis-clock on redis: a clock that differs from this machine's
--! check redis-disk on redis: a disk that is nearly full, if the server is on this machine
--! check redis-tls on redis: a connection without TLS over a public network
--! check redis-exposed on redis: a server that takes every client of a network without a password
--! check redis-rights-few on bus: rights that the bus lacks
--! check redis-store-rights-few on redis_store: rights that a store on Redis lacks
--! check redis-rights-many on redis: a user that may run every command
--! check redis-format on bus: keys of a newer release
--! check redis-store-format on redis_store: a prefix without a store, or keys of a store of a newer release
--! check group-unattended on bus: groups with waiting entries and no live consumer
--! check group-dead-consumer on bus: entries that a dead consumer holds
--! check group-holds-trim on bus: groups that keep the stream from being trimmed
--! check group-lost-entries on bus: entries that were removed before a group read them
--! check bus-missing on bus: a prefix without a bus
--! check redis-dead-letters on bus: dead letters
--! check redis-dead-letter-age on bus: dead letters that are older than the inbox remembers
--! deep check redis-store-missing-events-all on redis_store: missing events of all streams
--! check redis-store-checkpoint-ahead on redis_store: readers that are ahead of the store
--! check redis-store-abandoned-role on redis_store: roles without an owner: a relay or projection that does not run
--! check redis-store-event-types on redis_types: stored event types and versions that this program does not know
--! check redis-store-dead-letter-age on redis_store: dead letters that are older than the inbox remembers
--! check relay-ahead on bus_and_store: a bus that has events of later positions than the store
--! check relay-stalled on bus_and_store: events that the relay does not publish
--! check relay-other-store on bus_and_store: a bus that belongs to a different store

--! check sqlite-store on sqlite: a file without a store, or of a different release
--! check sqlite-journal on sqlite: a file that is not in WAL mode
PRAGMA journal_mode
--! check sqlite-wal-size on sqlite: a write-ahead log that only grows
--! check sqlite-disk on sqlite: a disk that is nearly full
--! check sqlite-index on sqlite: indexes and triggers that are missing
SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND name LIKE 'eventbus%'
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
--! deep check sqlite-missing-events-all on sqlite: missing events of all streams
--! as pg-missing-events
