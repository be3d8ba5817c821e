//! Checks of the tables, indexes and sequences of a store on PostgreSQL.

use eventbus::support::MigrationKind;
use eventstore_postgres::PgEventStore;
use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::{Finding, Severity},
    outcome::{CheckError, Outcome},
    postgres_server::repair_of_setting,
    postgres_target::PostgresTarget,
};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "pg-tables",
        "tables that are missing, or none at all",
        Run::Postgres(|target, config| Box::pin(check_tables(target, config))),
    ),
    Check::new(
        "pg-release",
        "tables of a different release",
        Run::PostgresStore(|target, config| Box::pin(check_release(target, config))),
    ),
    Check::new(
        "pg-sequence",
        "a sequence of positions with a cache, a step or a cycle",
        Run::PostgresStore(|target, config| Box::pin(check_sequence(target, config))),
    ),
    Check::new(
        "pg-sequence-behind",
        "sequences that would give a number again",
        Run::PostgresStore(|target, config| Box::pin(check_sequences_behind(target, config))),
    ),
    Check::new(
        "pg-index",
        "indexes that are missing or invalid",
        Run::PostgresStore(|target, config| Box::pin(check_indexes(target, config))),
    ),
    Check::new(
        "pg-unlogged",
        "tables that a crash empties",
        Run::PostgresStore(|target, config| Box::pin(check_unlogged(target, config))),
    ),
    Check::new(
        "pg-dead-rows",
        "bloated tables",
        Run::PostgresStore(|target, config| Box::pin(check_dead_rows(target, config))),
    ),
    Check::new(
        "pg-autovacuum",
        "tables that are not vacuumed",
        Run::PostgresStore(|target, config| Box::pin(check_autovacuum(target, config))),
    ),
    Check::new(
        "pg-foreign-logic",
        "triggers, rules and row security",
        Run::PostgresStore(|target, config| Box::pin(check_foreign_logic(target, config))),
    ),
];

/// The indexes of a new database: table, name, columns, and whether it is unique.
const INDEXES: &str = "
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
    ('floors', 'floors_pkey', 'destination,consumer_group', true),
    ('deliveries', 'deliveries_pkey', 'handler,event_id,aggregate_id,aggregate_type,tenant_id', true),
    ('deliveries', 'deliveries_handled_at_idx', 'handled_at', false),
    ('unfinished_deliveries', 'unfinished_deliveries_pkey', 'consumer_group,position', true),
    ('unfinished_deliveries', 'unfinished_deliveries_dead_idx', 'dead_since,position,consumer_group', false),
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
    ('migrations', 'migrations_pkey', 'version', true)";

async fn check_tables(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let missing: Vec<(String,)> = target
        .session(config)
        .await?
        .rows(&format!(
            "SELECT DISTINCT w.t::text FROM (VALUES {INDEXES}) w (t, n, c, u)
             WHERE NOT EXISTS (
                 SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
                 WHERE s.nspname = {{schema_text}} AND c.relname = w.t AND c.relkind IN ('r', 'p'))
             ORDER BY 1"
        ))
        .await?;
    let missing: Vec<_> = missing.into_iter().map(|(table,)| table).collect();
    if missing.is_empty() {
        return Ok(Outcome::healthy());
    }
    let schema = target.schema();
    let has_events = !missing.iter().any(|table| table == "events");
    let found = match has_events {
        true => format!("schema `{schema}` lacks tables: `{}`", missing.join("`, `")),
        false => format!("schema `{schema}` holds no store: it lacks `events`"),
    };
    let repair = match has_events {
        true => "run the migrations; if they were run, restore the tables from a backup",
        false => "give the right database and schema, or run the migrations",
    };
    let consequence = "the store cannot work, or fails in the operations that need the tables";
    Ok(Some(Finding::fault(found, consequence, repair).observed(json!({ "missing": missing }))).into())
}

async fn check_release(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let applied: Vec<(i32, String, String)> = target
        .session(config)
        .await?
        .rows("SELECT version, name, kind FROM {schema}.migrations ORDER BY version")
        .await?;
    let applied: Vec<_> = applied.into_iter().map(|(version, name, kind)| (i64::from(version), name, kind)).collect();
    Ok(compare_migrations(&applied, PgEventStore::NEWEST_MIGRATION))
}

/// Compares the migrations of a database, each with its name and kind, with the newest one that this release knows.
pub(crate) fn compare_migrations(applied: &[(i64, String, String)], known: u32) -> Outcome {
    let newer = applied.iter().filter(|(version, ..)| *version > i64::from(known)).map(|(version, name, kind)| {
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
        (1..=known).filter(|known| !applied.iter().any(|(version, ..)| *version == i64::from(*known))).collect();
    let older = (!missing.is_empty()).then(|| {
        let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Finding::warning(
            format!("the tables lack migrations of this release: {list}"),
            "a process of this release that does not migrate refuses to start",
            "run the migrations, with a role that owns the tables",
        )
        .observed(json!({ "missing": missing, "known": known }))
    });
    newer.chain(older).collect()
}

async fn check_sequence(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let wrong: Vec<(i64, i64, bool)> = target
        .session(config)
        .await?
        .rows(
            "SELECT s.seqcache, s.seqincrement, s.seqcycle
             FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {schema_text} AND c.relname = 'events_position_seq'
               AND (s.seqcache, s.seqincrement, s.seqcycle) IS DISTINCT FROM (1, 1, false)",
        )
        .await?;
    let schema = target.schema();
    let finding = |(cache, increment, cycle): (i64, i64, bool)| {
        let found = format!("`events_position_seq` has CACHE {cache}, INCREMENT {increment}, CYCLE {cycle}");
        let consequence = "positions come out of order, so that readers of the feed skip events for good";
        let repair = format!("ALTER SEQUENCE \"{schema}\".events_position_seq CACHE 1 INCREMENT 1 NO CYCLE");
        let observed = json!({ "cache": cache, "increment": increment, "cycle": cycle });
        Finding::fault(found, consequence, repair).observed(observed)
    };
    Ok(wrong.into_iter().map(finding).collect())
}

async fn check_sequences_behind(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let schema = target.schema();
    let mut session = target.session(config).await?;
    let has: Vec<(String, String, String)> = session
        .rows(
            "SELECT w.sequence, w.t, w.c
             FROM (VALUES ('events_position_seq', 'events', 'position'),
                 ('streams_stream_no_seq', 'streams', 'stream_no'), ('tags_tag_no_seq', 'tags', 'tag_no'))
                 w (sequence, t, c)
             WHERE EXISTS (SELECT FROM pg_class k JOIN pg_namespace n ON n.oid = k.relnamespace
                 WHERE n.nspname = {schema_text} AND k.relname = w.sequence)",
        )
        .await?;
    let mut outcome = Outcome::healthy();
    for (name, table, column) in has {
        // newer servers return no value to a role without the right, instead of an error
        let (drawn, stored): (Option<i64>, i64) = session
            .row(&format!(
                "SELECT CASE WHEN has_sequence_privilege('{{schema}}.{name}', 'USAGE, SELECT')
                     THEN coalesce(pg_sequence_last_value('{{schema}}.{name}'), 0) END,
                 coalesce((SELECT max({column}) FROM {{schema}}.{table}), 0)"
            ))
            .await?;
        let Some(drawn) = drawn else {
            outcome.not_checked(format!(
                "the role may not read the sequence `{name}`: GRANT SELECT ON SEQUENCE \"{schema}\".{name} to it"
            ));
            continue;
        };
        if drawn >= stored {
            continue;
        }
        let found = format!("the sequence `{name}` is at {drawn}, and {stored} is stored already");
        let consequence = "the next appends fail, or take numbers that readers have passed; it was restored without \
                           its state";
        let repair = format!(
            "stop all writers, then SELECT setval('\"{schema}\".{name}', (SELECT max({column}) FROM \
             \"{schema}\".{table}))"
        );
        let observed = json!({ "sequence": name, "drawn": drawn.to_string(), "stored": stored.to_string() });
        outcome.add(Finding::fault(found, consequence, repair).observed(observed));
    }
    Ok(outcome)
}

/// A missing index: table, name, columns and whether it is unique; and an index on these columns, with `true` if only
/// its name is wrong.
type WantedIndex = (String, String, String, bool, Option<String>, Option<bool>);

async fn check_indexes(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let wrong: Vec<WantedIndex> = target
        .session(config)
        .await?
        .rows(&format!(
            "WITH wanted (t, name, columns, is_unique) AS (VALUES {INDEXES}),
             tables AS (
                 -- of a partitioned table each partition has the indexes, under its own name
                 SELECT w.t, w.columns, w.is_unique, c.oid,
                     quote_ident(c.relname || substr(w.name, length(w.t) + 1)) AS name
                 FROM wanted w
                 JOIN pg_class p ON p.relname = w.t
                 JOIN pg_namespace n ON n.oid = p.relnamespace AND n.nspname = {{schema_text}}
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
             SELECT t.oid::regclass::text, t.name::text, t.columns::text, t.is_unique, o.name, o.is_sound AND NOT o.is_id_key
             FROM tables t
             LEFT JOIN LATERAL (
                 SELECT f.name, f.is_valid AND (f.indisunique OR NOT t.is_unique) AS is_sound, f.is_id_key
                 FROM found f WHERE f.indrelid = t.oid AND f.columns = t.columns
                 ORDER BY 2 DESC, 3 DESC LIMIT 1) o ON true
             WHERE NOT coalesce(o.is_sound AND (o.is_id_key OR t.columns <> 'event_id,stream_no'), false)
             ORDER BY 1, 2"
        ))
        .await?;
    let finding = |(table, name, columns, is_unique, other, is_misnamed): WantedIndex| {
        let columns = columns.replace(',', ", ");
        let is_misnamed = is_misnamed == Some(true);
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
    Ok(wrong.into_iter().map(finding).collect())
}

async fn check_unlogged(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let unlogged: Vec<(String,)> = target
        .session(config)
        .await?
        .rows(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p') AND c.relpersistence <> 'p' ORDER BY 1",
        )
        .await?;
    let finding = |(table,): (String,)| {
        let consequence = "a crash of the server empties the table, and no standby has it";
        Finding::fault(format!("`{table}` is unlogged"), consequence, format!("ALTER TABLE {table} SET LOGGED"))
            .observed(json!({ "table": table }))
    };
    Ok(unlogged.into_iter().map(finding).collect())
}

async fn check_dead_rows(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (least, share) = (i64::from(config.dead_rows), config.dead_rows_share);
    let bloated: Vec<(String, i64, i64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT relid::regclass::text, n_dead_tup, n_live_tup FROM pg_stat_user_tables
             WHERE schemaname = {schema_text} AND n_dead_tup > $1 AND n_dead_tup > $2 * n_live_tup
             ORDER BY n_dead_tup DESC",
            |statement| statement.bind(least).bind(share),
        )
        .await?;
    let finding = |(table, dead, live): (String, i64, i64)| {
        let found = format!("`{table}` has {dead} dead rows beside {live} live ones");
        let consequence = "the table grows on disk, and each read of it takes longer";
        let repair = format!("VACUUM (ANALYZE) {table}; then find what holds vacuum: a long transaction, a setting");
        Finding::warning(found, consequence, repair).observed(json!({ "table": table, "dead": dead, "live": live }))
    };
    Ok(bloated.into_iter().map(finding).collect())
}

async fn check_autovacuum(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    const CONSEQUENCE: &str = "dead rows stay for ever: the tables grow, and at last the server refuses writes";
    let mut session = target.session(config).await?;
    let settings: Vec<(String, String)> = session
        .rows(
            "SELECT name, source FROM pg_settings
             WHERE name IN ('autovacuum', 'track_counts') AND setting = 'off' ORDER BY 1",
        )
        .await?;
    let tables: Vec<(String,)> = session
        .rows(
            "SELECT c.oid::regclass::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN unnest(c.reloptions) o
             WHERE n.nspname = {schema_text} AND o ~* '^autovacuum_enabled=(off|false|no|0)$' ORDER BY 1",
        )
        .await?;
    let of_server = settings.into_iter().map(|(name, source)| {
        let repair = repair_of_setting(&name, &source);
        Finding::warning(format!("`{name}` is off"), CONSEQUENCE, repair).observed(json!({ "setting": name }))
    });
    let of_tables = tables.into_iter().map(|(table,)| {
        let repair = format!("ALTER TABLE {table} RESET (autovacuum_enabled)");
        Finding::warning(format!("`{table}` is not vacuumed"), CONSEQUENCE, repair).observed(json!({ "table": table }))
    });
    Ok(of_server.chain(of_tables).collect())
}

async fn check_foreign_logic(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let found: Vec<(String, String, String, String)> = target
        .session(config)
        .await?
        .rows(
            "WITH tables AS (
                 SELECT c.oid, c.relrowsecurity
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = {schema_text} AND c.relkind IN ('r', 'p'))
             SELECT 'row security', oid::regclass::text, '',
                 format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', oid::regclass)
             FROM tables WHERE relrowsecurity
             UNION ALL
             SELECT 'a rule', t.oid::regclass::text, r.rulename::text,
                 format('DROP RULE %I ON %s', r.rulename, t.oid::regclass)
             FROM pg_rewrite r JOIN tables t ON t.oid = r.ev_class
             UNION ALL
             SELECT 'a trigger', t.oid::regclass::text, g.tgname::text,
                 format('DROP TRIGGER %I ON %s', g.tgname, t.oid::regclass)
             FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal
             ORDER BY 1, 2, 3 LIMIT 20",
        )
        .await?;
    let finding = |(kind, table, name, repair): (String, String, String, String)| {
        let named = if name.is_empty() { String::new() } else { format!(" `{name}`") };
        let found = format!("`{table}` has {kind}{named}, which is none of the store's");
        let consequence = "it can hide, change or refuse rows, so that events are lost without an error";
        Finding::warning(found, consequence, repair).observed(json!({ "kind": kind, "table": table, "name": name }))
    };
    Ok(found.into_iter().map(finding).collect())
}
