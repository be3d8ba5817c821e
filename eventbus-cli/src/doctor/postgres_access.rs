//! Checks of the connections of clients to a PostgreSQL server, and of their rights.

use std::net::IpAddr;

use eventstore_postgres::sqlx::{self, Acquire as _, Executor as _, PgConnection, Row as _};
use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::Finding,
    outcome::{CheckError, Outcome, lacks_right},
    postgres_session::PgSession,
    postgres_target::PostgresTarget,
};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "pg-tls",
        "a connection without TLS over a public network",
        Run::Postgres(|target, config| Box::pin(check_tls(target, config))),
    ),
    Check::new(
        "pg-hba",
        "clients of a network that need no password, or send it in clear text",
        Run::Postgres(|target, config| Box::pin(check_host_rules(target, config))),
    ),
    Check::new(
        "pg-pooler",
        "a pooler that shares sessions between transactions",
        Run::Postgres(|target, _| Box::pin(check_pooler(target))),
    ),
    Check::new(
        "pg-rights-few",
        "rights that the application lacks",
        Run::PostgresStore(|target, config| Box::pin(check_missing_rights(target, config))),
    ),
    Check::new(
        "pg-rights-many",
        "rights to change or remove events",
        Run::PostgresStore(|target, config| Box::pin(check_excess_rights(target, config))),
    ),
    Check::new(
        "pg-superuser",
        "an application that connects as a superuser",
        Run::Postgres(|target, config| Box::pin(check_superuser(target, config))),
    ),
];

async fn check_tls(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (encrypted, client, server): (bool, Option<String>, Option<String>) = target
        .session(config)
        .await?
        .row(
            "SELECT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),
             host(inet_client_addr()), host(inet_server_addr())",
        )
        .await?;
    let is_untrusted = |address: &Option<String>| {
        let address: Option<IpAddr> = address.as_ref().and_then(|address| address.parse().ok());
        address.is_some_and(|address| !config.trusted_networks.iter().any(|network| network.contains(&address)))
    };
    if encrypted || !(is_untrusted(&client) || is_untrusted(&server)) {
        return Ok(Outcome::healthy());
    }
    let at = server.as_deref().unwrap_or_default();
    let found = format!("the connection to {at} has no TLS, and crosses a network that is not trusted");
    let consequence = "every machine on the way can read events and passwords, and change them";
    let repair = "`?sslmode=verify-full` in the URL, the cargo feature `tls` of eventstore-postgres, `ssl = on` at the \
                  server";
    let observed = json!({ "client": client, "server": server });
    Ok(Some(Finding::warning(found, consequence, repair).observed(observed)).into())
}

async fn check_host_rules(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let hidden = |error| match error {
        CheckError::Postgres(error) if lacks_right(&error) => {
            CheckError::NotHere("only a superuser may read the rules of pg_hba.conf: check as one")
        }
        error => error,
    };
    let rules: Vec<(i32, String, String, String, String)> = target
        .session(config)
        .await?
        .rows(
            "SELECT line_number, type, auth_method, coalesce(address, ''), coalesce(netmask, '')
             FROM pg_hba_file_rules
             WHERE type IN ('host', 'hostnossl', 'hostssl') AND NOT database <@ ARRAY['replication']
               AND (auth_method = 'trust' OR auth_method = 'password' AND type <> 'hostssl')
               AND address NOT IN ('samehost', 'localhost', '::1') AND address NOT LIKE '127.%'
             ORDER BY line_number LIMIT 20",
        )
        .await
        .map_err(hidden)?;
    let finding = |(line, kind, method, address, mask): (i32, String, String, String, String)| {
        let rule = format!("`{kind} … {address} {mask} {method}` (line {line} of pg_hba.conf)").replace("  ", " ");
        let observed = json!({ "line": line, "type": kind, "method": method, "address": address, "netmask": mask });
        let repair = "write `hostssl … scram-sha-256` in that line, then SELECT pg_reload_conf()";
        let finding = match method.as_str() {
            "trust" => Finding::fault(
                format!("clients need no password: {rule}"),
                "whichever program reaches the server can read, add and remove events, as each role",
                repair,
            ),
            _ => Finding::warning(
                format!("clients send their passwords in clear text: {rule}"),
                "every machine on the way can read the passwords",
                repair,
            ),
        };
        finding.observed(observed)
    };
    Ok(rules.into_iter().map(finding).collect())
}

/// Rounds in which two sessions are compared: a busy pooler does not share a backend in each round.
const POOLER_ROUNDS: usize = 3;

async fn check_pooler(target: &PostgresTarget) -> Result<Outcome, CheckError> {
    let mut first = target.pool().acquire().await?;
    let mut second =
        target.pool().acquire().await.map_err(|error| {
            CheckError::Other(format!("it takes two connections, and the pool gave only one: {error}"))
        })?;
    let shared = find_shared_backend(&mut first, &mut second).await?;
    Ok(shared.map(describe_pooler).into())
}

/// Returns the backend that two sessions share, or to which one of them was moved: a pooler gives each transaction a
/// free backend.
async fn find_shared_backend(first: &mut PgConnection, second: &mut PgConnection) -> Result<Option<i32>, sqlx::Error> {
    let own = backend(first).await?;
    for _ in 0..POOLER_ROUNDS {
        let mut transaction = second.begin().await?;
        let of_second = backend(&mut transaction).await?;
        let of_first = match of_second == own {
            true => own,
            // outside of a transaction, while the second session has one
            false => backend(first).await?,
        };
        transaction.rollback().await?;
        if of_second == own || of_first != own {
            return Ok(Some(of_second));
        }
    }
    Ok(None)
}

async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    // the simple protocol: such a pooler does not keep prepared statements
    let row = connection.fetch_one(sqlx::raw_sql("SELECT pg_backend_pid()")).await?;
    row.try_get_unchecked(0)
}

fn describe_pooler(pid: i32) -> Finding {
    Finding::warning(
        format!("a pooler gives one session of the server (process {pid}) to several clients, by transaction"),
        "before PgBouncer 1.21, or without its `max_prepared_statements`, statements fail; without `notify: false` of the \
         store readers hear of no append, and poll",
        "let the pooler pool sessions (`pool_mode = session`), or connect to the server directly; else set \
         `max_prepared_statements` and `notify: false`, and leave this check out by `--skip pg-pooler`",
    )
    .observed(json!({ "pid": pid }))
}

async fn check_missing_rights(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let mut session = target.session(config).await?;
    let missing: Vec<(String, String, String)> = session
        .rows_with(
            "WITH app AS (SELECT r.oid, r.rolname FROM pg_roles r WHERE r.rolname = coalesce($1, current_user)),
             wanted (name, rights) AS (VALUES
                 ('streams', 'SELECT INSERT UPDATE'), ('events', 'SELECT INSERT'), ('event_types', 'SELECT INSERT'),
                 ('store', 'SELECT'), ('migrations', 'SELECT'),
                 ('checkpoints', 'SELECT INSERT UPDATE DELETE'), ('notes', 'SELECT INSERT UPDATE DELETE'),
                 ('leases', 'SELECT INSERT UPDATE'), ('floors', 'SELECT INSERT UPDATE DELETE'),
                 ('deliveries', 'SELECT INSERT UPDATE DELETE'), ('unfinished_deliveries', 'SELECT INSERT UPDATE DELETE'),
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
                 CROSS JOIN regexp_split_to_table(w.rights, ' ') p)
             SELECT app.rolname::text, 'SCHEMA {schema}', 'USAGE'
             FROM app WHERE NOT has_schema_privilege(app.oid, {schema_text}, 'USAGE')
             UNION ALL
             SELECT app.rolname::text,
                 CASE a.relkind WHEN 'S' THEN 'SEQUENCE {schema}.' ELSE '{schema}.' END || a.name,
                 string_agg(a.privilege, ', ' ORDER BY a.privilege DESC)
             FROM app CROSS JOIN asked a
             WHERE CASE a.relkind WHEN 'S' THEN NOT has_sequence_privilege(app.oid, a.oid, a.privilege)
                 ELSE NOT has_table_privilege(app.oid, a.oid, a.privilege) END
             GROUP BY app.rolname, a.relkind, a.name
             ORDER BY 2",
            |statement| statement.bind(config.app_role.clone()),
        )
        .await?;
    let Some((role, ..)) = missing.first() else {
        return match &config.app_role {
            Some(role) if !exists(&mut session, role).await? => {
                Err(CheckError::Other(format!("there is no role `{role}`")))
            }
            _ => Ok(Outcome::healthy()),
        };
    };
    let list: Vec<_> = missing.iter().map(|(_, of, rights)| format!("{rights} on {of}")).collect();
    let grants: Vec<_> =
        missing.iter().map(|(_, of, rights)| format!("GRANT {rights} ON {of} TO \"{role}\";")).collect();
    let found = format!("the role `{role}` lacks rights: {}", list.join(", "));
    let consequence = "the application fails later, in the one operation that needs the right";
    let observed = json!({ "role": role, "missing": list });
    Ok(Some(Finding::fault(found, consequence, grants.join(" ")).observed(observed)).into())
}

async fn exists(session: &mut PgSession, role: &str) -> Result<bool, CheckError> {
    let role = role.to_owned();
    let found: Vec<(bool,)> = session
        .rows_with("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", |statement| statement.bind(role))
        .await?;
    Ok(found.first().is_some_and(|(exists,)| *exists))
}

async fn check_excess_rights(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let excess: Vec<(String, String, String, String)> = target
        .session(config)
        .await?
        .rows(
            "WITH tables AS (
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
             SELECT coalesce(r.rolname::text, 'PUBLIC'), g.relname::text, g.oid::regclass::text,
                 string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type)
             FROM granted g LEFT JOIN pg_roles r ON r.oid = g.grantee
             GROUP BY 1, 2, 3 ORDER BY 1, 2 LIMIT 20",
        )
        .await?;
    let finding = |(role, table, full_name, rights): (String, String, String, String)| {
        let grantee = if role == "PUBLIC" { role.clone() } else { format!("\"{role}\"") };
        let found = format!("`{role}` has {rights} on `{table}`");
        let consequence = "software that is not the store can change what has happened, and no reader notices";
        let repair = format!("REVOKE {rights} ON {full_name} FROM {grantee}");
        Finding::warning(found, consequence, repair).observed(json!({ "role": role, "table": table, "rights": rights }))
    };
    Ok(excess.into_iter().map(finding).collect())
}

async fn check_superuser(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let role = config.app_role.clone();
    let superuser: Vec<(String,)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT rolname::text FROM pg_roles WHERE rolname = coalesce($1, current_user) AND rolsuper",
            |statement| statement.bind(role),
        )
        .await?;
    let finding = |(role,): (String,)| {
        let found = format!("the role `{role}` is a superuser");
        let consequence = "no right limits it: a mistake or an attacker can change events, and the server's files";
        let repair = "create a role with the grants of SECURITY.md, and connect as that one";
        Finding::note(found, consequence, repair).observed(json!({ "role": role }))
    };
    Ok(superuser.into_iter().map(finding).collect())
}
