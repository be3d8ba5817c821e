//! Checks of the tables, indexes and sequences of a store on PostgreSQL.

use eventbus::support::MigrationKind;
use eventstore_postgres::PgEventStore;
use serde::Deserialize;
use serde_json::json;

use super::{
    check::Check,
    finding::{Finding, Severity},
    outcome::{CheckError, Outcome},
    postgres_server::settings_off,
    statement::{Known, Row, fault, judged, not_checked, parse_all, warning},
    subjects::Subject::{Postgres, PostgresStore},
};

/// Returns the indexes of a new database: table, name, columns, and whether it is unique.
macro_rules! indexes {
    () => {
        "
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
    ('migrations', 'migrations_pkey', 'version', true)"
    };
}

/// Selects the tables that are missing, together, if a condition holds for them.
macro_rules! missing_tables {
    ($condition:literal) => {
        concat!(
            "SELECT jsonb_agg(t ORDER BY t) AS missing, string_agg(t, '`, `' ORDER BY t) AS _list
             FROM (SELECT DISTINCT w.t::text FROM (VALUES ",
            indexes!(),
            ") w (t, n, c, u)) w
             WHERE NOT EXISTS (
                 SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
                 WHERE s.nspname = {schema_text} AND c.relname = w.t AND c.relkind IN ('r', 'p'))
             HAVING ",
            $condition
        )
    };
}

/// Selects the sequences that a store draws numbers from, each with the highest number that is stored; `drawn` is null if
/// the role may not read it.
macro_rules! sequences_with {
    ($condition:literal) => {
        concat!(
            "SELECT sequence, drawn::text, stored::text, t AS _table, c AS _column
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
             WHERE ",
            $condition
        )
    };
}

const INCOMPLETE: &str = "the store cannot work, or fails in the operations that need the tables";
const NOT_VACUUMED: &str = "dead rows stay for ever: the tables grow, and at last the server refuses writes";

pub(crate) const CHECKS: &[Check] = &[
    Check::sql(
        Postgres,
        "pg-tables",
        "tables that are missing, or none at all",
        &[
            fault(
                missing_tables!("NOT bool_or(t = 'events')"),
                "schema `{schema_name}` lacks tables: `{_list}`",
                INCOMPLETE,
                "run the migrations; if they were run, restore the tables from a backup",
            ),
            fault(
                missing_tables!("bool_or(t = 'events')"),
                "schema `{schema_name}` holds no store: it lacks `events`",
                INCOMPLETE,
                "give the right database and schema, or run the migrations",
            ),
        ],
    ),
    Check::sql(
        PostgresStore,
        "pg-release",
        "tables of a different release",
        &[judged("SELECT version, name, kind FROM {table migrations} ORDER BY version", |rows, _| {
            compare_migrations(rows, PgEventStore::NEWEST_MIGRATION)
        })],
    ),
    Check::sql(
        PostgresStore,
        "pg-sequence",
        "a sequence of positions with a cache, a step or a cycle",
        &[fault(
            "SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle
             FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {schema_text} AND c.relname = 'events_position_seq'
               AND (s.seqcache, s.seqincrement, s.seqcycle) IS DISTINCT FROM (1, 1, false)",
            "`events_position_seq` has CACHE {cache}, INCREMENT {increment}, CYCLE {cycle}",
            "positions come out of order, so that readers of the feed skip events for good",
            "ALTER SEQUENCE {table events_position_seq} CACHE 1 INCREMENT 1 NO CYCLE",
        )],
    ),
    Check::sql(
        PostgresStore,
        "pg-sequence-behind",
        "sequences that would give a number again",
        &[
            not_checked(
                sequences_with!("drawn IS NULL"),
                "the role may not read the sequence `{sequence}`: GRANT SELECT ON SEQUENCE {schema}.{sequence} to it",
            ),
            fault(
                sequences_with!("drawn < stored"),
                "the sequence `{sequence}` is at {drawn}, and {stored} is stored already",
                "the next appends fail, or take numbers that readers have passed; it was restored without its state",
                "stop all writers, then SELECT setval('{schema}.{sequence}', (SELECT max({_column}) FROM \
                 {schema}.{_table}))",
            ),
        ],
    ),
    Check::sql(
        PostgresStore,
        "pg-index",
        "indexes that are missing or invalid",
        &[judged(
            concat!(
                "WITH wanted (t, name, columns, is_unique) AS (VALUES ",
                indexes!(),
                "),
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
                     (SELECT x.relname FROM pg_class x WHERE x.oid = i.indexrelid) LIKE '%\\_event\\_id\\_key' AS is_id_key,
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
             ORDER BY 1, 2"
            ),
            judge_indexes,
        )],
    ),
    Check::sql(
        PostgresStore,
        "pg-unlogged",
        "tables that a crash empties",
        &[fault(
            "SELECT c.oid::regclass::text AS table FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p') AND c.relpersistence <> 'p' ORDER BY 1",
            "`{table}` is unlogged",
            "a crash of the server empties the table, and no standby has it",
            "ALTER TABLE {table} SET LOGGED",
        )],
    ),
    Check::sql(
        PostgresStore,
        "pg-dead-rows",
        "bloated tables",
        &[warning(
            "SELECT relid::regclass::text AS table, n_dead_tup AS dead, n_live_tup AS live FROM pg_stat_user_tables
             WHERE schemaname = {schema_text} AND n_dead_tup > {dead_rows}
                AND n_dead_tup > {dead_rows_share} * n_live_tup
             ORDER BY n_dead_tup DESC",
            "`{table}` has {dead} dead rows beside {live} live ones",
            "the table grows on disk, and each read of it takes longer",
            "VACUUM (ANALYZE) {table}; then find what holds vacuum: a long transaction, a setting",
        )],
    ),
    Check::sql(
        PostgresStore,
        "pg-autovacuum",
        "tables that are not vacuumed",
        &[
            warning(
                settings_off!("name IN ('autovacuum', 'track_counts')"),
                "`{setting}` is off",
                NOT_VACUUMED,
                "{_repair}",
            ),
            warning(
                "SELECT c.oid::regclass::text AS table
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN unnest(c.reloptions) o
                 WHERE n.nspname = {schema_text} AND o ~* '^autovacuum_enabled=(off|false|no|0)$' ORDER BY 1",
                "`{table}` is not vacuumed",
                NOT_VACUUMED,
                "ALTER TABLE {table} RESET (autovacuum_enabled)",
            ),
        ],
    ),
    Check::sql(
        PostgresStore,
        "pg-foreign-logic",
        "triggers, rules and row security",
        &[warning(
            "WITH tables AS (
                 SELECT c.oid, c.relrowsecurity, c.oid::regclass::text AS name
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p')),
             found (kind, \"table\", name, _repair) AS (
                 SELECT 'row security', name, '', format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', name)
                 FROM tables WHERE relrowsecurity
                 UNION ALL
                 SELECT 'a rule', t.name, r.rulename::text, format('DROP RULE %I ON %s', r.rulename, t.name)
                 FROM pg_rewrite r JOIN tables t ON t.oid = r.ev_class
                 UNION ALL
                 SELECT 'a trigger', t.name, g.tgname::text, format('DROP TRIGGER %I ON %s', g.tgname, t.name)
                 FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal)
             SELECT *, coalesce(' `' || nullif(name, '') || '`', '') AS _named FROM found ORDER BY 1, 2, 3 LIMIT 20",
            "`{table}` has {kind}{_named}, which is none of the store's",
            "it can hide, change or refuse rows, so that events are lost without an error",
            "{_repair}",
        )],
    ),
];

/// A migration of a database.
#[derive(Debug, Deserialize)]
struct Migration {
    version: u32,
    name: String,
    kind: String,
}

/// Compares the migrations of a database, each with its name and kind, with the newest one that this release knows.
pub(crate) fn compare_migrations(applied: &[Row], known: u32) -> Result<Outcome, CheckError> {
    let applied: Vec<Migration> = parse_all(applied)?;
    let newer =
        applied.iter().filter(|migration| migration.version > known).map(|Migration { version, name, kind }| {
            let observed = json!({ "version": version, "name": name, "kind": kind, "known": known });
            let found = format!("the tables have the {kind} migration {version} `{name}`; this release knows {known}");
            let repair = "run one release everywhere: deploy the newer one to this process, too";
            let is_breaking = MigrationKind::parse(kind) == MigrationKind::Breaking;
            let finding = match is_breaking {
                true => Finding::fault(found, "this release refuses to start", repair),
                false => Finding::warning(
                    found,
                    "a newer release works on these tables: two releases are at work until all are deployed",
                    repair,
                ),
            };
            finding.observed(observed)
        });
    let missing: Vec<_> =
        (1..=known).filter(|known| !applied.iter().any(|migration| migration.version == *known)).collect();
    let older = (!missing.is_empty()).then(|| {
        let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Finding::warning(
            format!("the tables lack migrations of this release: {list}"),
            "a process of this release that does not migrate refuses to start",
            "run the migrations, with a role that owns the tables",
        )
        .observed(json!({ "missing": missing, "known": known }))
    });
    Ok(newer.chain(older).collect())
}

/// A missing index.
#[derive(Debug, Deserialize)]
struct WantedIndex {
    table: String,
    name: String,
    columns: String,
    is_unique: bool,
    /// An index on these columns.
    other: Option<String>,
    /// Set if only the name of the other one is wrong.
    is_misnamed: bool,
}

fn judge_indexes(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let finding = |wanted: WantedIndex| {
        let WantedIndex { table, name, columns, is_unique, other, is_misnamed } = wanted;
        let columns = columns.replace(',', ", ");
        let (severity, consequence) = match is_unique {
            true if is_misnamed => {
                (Severity::Fault, "a repeated append fails, where it should return its first result")
            }
            true => (Severity::Fault, "the store cannot keep its promises: two writers can store the same thing"),
            false => (Severity::Warning, "statements read the whole table, and become slower with each row"),
        };
        let kind = if is_unique { "UNIQUE INDEX" } else { "INDEX" };
        let (found, repair) = match &other {
            Some(index) if is_misnamed => (
                format!("the index `{index}` on `{table}` ({columns}) has not the name `{name}`"),
                format!("ALTER INDEX {index} RENAME TO {name}"),
            ),
            Some(index) => (
                format!("the index `{index}` on `{table}` ({columns}) is not usable"),
                format!("REINDEX INDEX CONCURRENTLY {index}; if it is not unique, drop it and make `{name}` anew"),
            ),
            None => (
                format!("`{table}` lacks the index `{name}` on ({columns})"),
                format!("CREATE {kind} CONCURRENTLY {name} ON {table} ({columns})"),
            ),
        };
        let observed = json!({ "table": table, "index": name, "columns": columns, "other": other });
        Finding::new(severity, found, consequence, repair).observed(observed)
    };
    Ok(parse_all(rows)?.into_iter().map(finding).collect())
}
