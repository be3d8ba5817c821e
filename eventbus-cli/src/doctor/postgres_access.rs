//! Checks of the connections of clients to a PostgreSQL server, and of their rights.

use std::net::IpAddr;

use eventstore_postgres::sqlx::{self, Acquire as _, Executor as _, PgConnection, Row as _};
use serde_json::json;

use super::{
    check::{Check, code},
    finding::Finding,
    outcome::{CheckError, Outcome, lacks_right},
    statement::{Known, Row, Statement, fault, judged, not_checked, note, warning},
    subjects::{
        Subject::{Postgres, PostgresStore},
        Subjects,
    },
};

pub(crate) const CHECKS: &[Check] = &[
    Check::sql(
        Postgres,
        "pg-tls",
        "a connection without TLS over a public network",
        &[judged(
            "SELECT host(inet_client_addr()) AS client, host(inet_server_addr()) AS server
             WHERE NOT coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)",
            judge_plain_connection,
        )],
    ),
    Check::new(
        Postgres,
        "pg-hba",
        "clients of a network that need no password, or send it in clear text",
        code!(check_host_rules),
    ),
    Check::new(Postgres, "pg-pooler", "a pooler that shares sessions between transactions", code!(check_pooler)),
    Check::sql(
        PostgresStore,
        "pg-rights-few",
        "rights that the application lacks",
        &[
            not_checked(
                "SELECT {app_role} AS role
                 WHERE {app_role} IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {app_role})",
                "there is no role `{role}`",
            ),
            fault(
                "WITH app AS (
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
                    string_agg('GRANT ' || rights || ' ON ' || name || ' TO \"' || role || '\";', ' ' ORDER BY name)
                        AS _grants
                FROM missing GROUP BY role",
                "the role `{role}` lacks rights: {_list}",
                "the application fails later, in the one operation that needs the right",
                "{_grants}",
            ),
        ],
    ),
    Check::sql(
        PostgresStore,
        "pg-rights-many",
        "rights to change or remove events",
        &[warning(
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
             SELECT coalesce(r.rolname::text, 'PUBLIC') AS role, g.relname::text AS table, rights, full_name AS _full_name,
                 coalesce('\"' || r.rolname || '\"', 'PUBLIC') AS _grantee
             FROM (
                 SELECT grantee, relname, oid::regclass::text AS full_name,
                     string_agg(privilege_type, ', ' ORDER BY privilege_type) AS rights
                 FROM granted GROUP BY 1, 2, 3) g
             LEFT JOIN pg_roles r ON r.oid = g.grantee
             ORDER BY 1, 2 LIMIT 20",
            "`{role}` has {rights} on `{table}`",
            "software that is not the store can change what has happened, and no reader notices",
            "REVOKE {rights} ON {_full_name} FROM {_grantee}",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-superuser",
        "an application that connects as a superuser",
        &[note(
            "SELECT rolname::text AS role FROM pg_roles WHERE rolname = coalesce({app_role}, current_user) AND rolsuper",
            "the role `{role}` is a superuser",
            "no right limits it: a mistake or an attacker can change events, and the server's files",
            "create a role with the grants of SECURITY.md, and connect as that one",
        )],
    ),
];

fn judge_plain_connection(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let is_untrusted = |address: &Option<String>| {
        let address: Option<IpAddr> = address.as_ref().and_then(|address| address.parse().ok());
        address.is_some_and(|address| !known.config.is_trusted(address))
    };
    let Some(row) = rows.first() else { return Ok(Outcome::healthy()) };
    let (client, server): (Option<String>, Option<String>) = (row.get("client")?, row.get("server")?);
    if !is_untrusted(&client) && !is_untrusted(&server) {
        return Ok(Outcome::healthy());
    }
    let at = server.as_deref().unwrap_or_default();
    let found = format!("the connection to {at} has no TLS, and crosses a network that is not trusted");
    let consequence = "every machine on the way can read events and passwords, and change them";
    let repair = "`?sslmode=verify-full` in the URL, the cargo feature `tls` of eventstore-postgres, `ssl = on` at the \
                  server";
    let observed = json!({ "client": client, "server": server });
    Ok(Finding::warning(found, consequence, repair).observed(observed).into())
}

/// Selects the rules for hosts with a method.
macro_rules! host_rules {
    ($method:literal) => {
        concat!(
            "SELECT line_number AS line, type, auth_method AS method, coalesce(address, '') AS address,
                coalesce(netmask, '') AS netmask,
                concat_ws(' ', nullif(address, ''), nullif(netmask, ''), auth_method) AS _rule
             FROM pg_hba_file_rules
             WHERE type IN ('host', 'hostnossl', 'hostssl') AND NOT database <@ ARRAY['replication']
                AND address NOT IN ('samehost', 'localhost', '::1') AND address NOT LIKE '127.%' AND ",
            $method,
            " ORDER BY line_number LIMIT 20"
        )
    };
}

const HOST_RULES: &[Statement] = &[
    fault(
        host_rules!("auth_method = 'trust'"),
        "clients need no password: `{type} … {_rule}` (line {line} of pg_hba.conf)",
        "whichever program reaches the server can read, add and remove events, as each role",
        "write `hostssl … scram-sha-256` in that line, then SELECT pg_reload_conf()",
    ),
    warning(
        host_rules!("auth_method = 'password' AND type <> 'hostssl'"),
        "clients send their passwords in clear text: `{type} … {_rule}` (line {line} of pg_hba.conf)",
        "every machine on the way can read the passwords",
        "write `hostssl … scram-sha-256` in that line, then SELECT pg_reload_conf()",
    ),
];

async fn check_host_rules(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    match on.run(Postgres, HOST_RULES, false).await {
        Err(CheckError::Postgres(error)) if lacks_right(&error) => {
            Err(CheckError::NotHere("only a superuser may read the rules of pg_hba.conf: check as one"))
        }
        checked => checked,
    }
}

/// Rounds in which two sessions are compared: a busy pooler does not share a backend in each round.
const POOLER_ROUNDS: usize = 3;

async fn check_pooler(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let pool = on.postgres()?.pool();
    let mut first = pool.acquire().await?;
    let mut second = pool
        .acquire()
        .await
        .map_err(|error| CheckError::Other(format!("it takes two connections, and the pool gave only one: {error}")))?;
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
