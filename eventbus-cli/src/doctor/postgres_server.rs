//! Checks of the settings and the state of a PostgreSQL server.

use std::path::Path;

use eventstore_postgres::PgOpenAppend;
use serde_json::json;

use super::{
    check::{Check, code},
    config::DoctorConfig,
    disk::check_free_space,
    finding::Finding,
    outcome::{CheckError, DISK_ELSEWHERE, Outcome},
    statement::{Database as _, fault, not_checked, warning},
    subjects::{
        Subject::{Postgres, PostgresStore},
        Subjects,
    },
};

/// Selects the state of the server, if a condition holds.
macro_rules! server_with {
    ($condition:literal) => {
        concat!(
            "SELECT * FROM (
                SELECT current_setting('server_version_num')::int AS version,
                    current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
                    current_setting('default_transaction_read_only') = 'on' AS read_only,
                    quote_ident(current_database()) AS _database) s
             WHERE ",
            $condition
        )
    };
}

/// Selects the settings that are off, of those with a condition, each with its repair.
macro_rules! settings_off {
    ($condition:literal) => {
        concat!(
            "SELECT name AS setting, source,
                CASE source
                    -- it takes precedence over the files of the server
                    WHEN 'command line'
                        THEN format('remove `%s` from the command line of the server, and restart the server', name)
                    WHEN 'client' THEN 'remove it from the options of the connection'
                    ELSE format('ALTER SYSTEM SET %s = ''on''; SELECT pg_reload_conf()', name)
                END AS _repair
             FROM pg_settings WHERE setting = 'off' AND ",
            $condition,
            " ORDER BY 1"
        )
    };
}
pub(crate) use settings_off;

const REFUSED: &str = "the store refuses to connect";
const ACKNOWLEDGED_LOST: &str = "a crash of the server loses saves that it has acknowledged";

pub(crate) const CHECKS: &[Check] = &[
    Check::sql(
        Postgres,
        "pg-server",
        "a server that the store refuses: version, encoding, standby, read-only",
        &[
            fault(
                concat!("SELECT *, version / 10000 AS _major FROM (", server_with!("version < 130000"), ") s"),
                "the server is PostgreSQL {_major}",
                REFUSED,
                "upgrade the server to PostgreSQL 13 or newer",
            ),
            fault(
                server_with!("encoding <> 'UTF8'"),
                "the encoding of the database is {encoding}",
                REFUSED,
                "create the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            ),
            fault(server_with!("standby"), "the server is a standby", REFUSED, "connect to the primary"),
            fault(
                server_with!("read_only AND NOT standby"),
                "transactions are read-only by default",
                REFUSED,
                // without the first statement a session may not make the second one
                "find out where `default_transaction_read_only` is set, and remove it; for the database by SET \
                 default_transaction_read_only = off; ALTER DATABASE {_database} RESET default_transaction_read_only",
            ),
        ],
    ),
    Check::sql(
        Postgres,
        "pg-sync-commit",
        "`synchronous_commit` off, for the server, a database or a role",
        &[
            fault(
                "SELECT role, database,
                    CASE WHEN role = '' AND database = '' THEN 'all roles'
                        ELSE concat_ws(' in ', 'role `' || nullif(role, '') || '`',
                            'database `' || nullif(database, '') || '`')
                    END AS _of,
                    CASE WHEN role = '' AND database = '' THEN 'ALTER ROLE ALL'
                        WHEN role = '' THEN 'ALTER DATABASE \"' || database || '\"'
                        ELSE 'ALTER ROLE \"' || role || '\"'
                            || coalesce(' IN DATABASE \"' || nullif(database, '') || '\"', '')
                    END AS _alter
                 FROM (
                    SELECT coalesce(r.rolname, '')::text AS role, coalesce(d.datname, '')::text AS database
                    FROM pg_db_role_setting s
                    CROSS JOIN unnest(s.setconfig) c
                    LEFT JOIN pg_roles r ON r.oid = s.setrole
                    LEFT JOIN pg_database d ON d.oid = s.setdatabase
                    WHERE c ~* '^synchronous_commit=(off|false|no|0)$'
                        AND (s.setdatabase = 0 OR d.datname = current_database())) s",
                "`synchronous_commit` is off for {_of}",
                ACKNOWLEDGED_LOST,
                "{_alter} RESET synchronous_commit",
            ),
            fault(
                settings_off!(
                    "name = 'synchronous_commit' AND source NOT IN ('global', 'database', 'user', 'database user')"
                ),
                "`synchronous_commit` is off (source: {source})",
                ACKNOWLEDGED_LOST,
                "{_repair}",
            ),
        ],
    ),
    Check::sql(
        Postgres,
        "pg-fsync",
        "`fsync` or `full_page_writes` off",
        &[fault(
            settings_off!("name IN ('fsync', 'full_page_writes')"),
            "`{setting}` is off",
            "a power failure damages the database, all of it",
            "{_repair}",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-long-transaction",
        "transactions that are open for long",
        &[
            warning(
                "SELECT pid, coalesce(application_name, '') AS application_name, coalesce(state, '') AS state,
                    {now} - {seconds xact_start} AS seconds
                 FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
                    AND {now} - {seconds xact_start} > {long_transaction}
                 ORDER BY xact_start LIMIT 20",
                "a transaction of `{application_name}` (process {pid}, {state}) is open for {seconds:.0} s",
                "vacuum removes no row that became dead since, in any table",
                "SELECT pg_terminate_backend({pid}); set `idle_in_transaction_session_timeout` for the role that began it",
            ),
            not_checked(
                "SELECT count(*) AS hidden FROM pg_stat_activity
                 WHERE datname = current_database() AND query = '<insufficient privilege>' HAVING count(*) > 0",
                "{hidden} sessions of different roles are hidden: GRANT pg_read_all_stats to the role of this connection",
            ),
        ],
    ),
    Check::new(PostgresStore, "pg-open-append", "an append whose transaction stays open", code!(check_open_append)),
    Check::sql(
        Postgres,
        "pg-prepared",
        "prepared transactions without an end",
        &[fault(
            "SELECT gid AS name, owner::text, {now} - {seconds prepared} AS seconds, quote_literal(gid) AS _quoted
             FROM pg_prepared_xacts
             WHERE database = current_database() AND {now} - {seconds prepared} > {prepared_transaction}
             ORDER BY prepared LIMIT 20",
            "the prepared transaction `{name}` of `{owner}` is {seconds:.0} s old",
            "it keeps its locks over restarts: vacuum stands still, and the feed if it appended events",
            "ROLLBACK PREPARED {_quoted}",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-connections",
        "connections that are nearly used up",
        &[warning(
            "SELECT * FROM (
                SELECT (SELECT sum(numbackends) FROM pg_stat_database)::bigint AS used,
                    current_setting('max_connections')::bigint
                        - current_setting('superuser_reserved_connections')::bigint AS max) c
             WHERE used > {connections_share} * max",
            "{used} of {max} connections are in use",
            "the next process cannot connect, and a store that lost its connections neither",
            "lower `max_connections` of the stores, stop idle clients, or raise the server's `max_connections`",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-transaction-ids",
        "rows that vacuum has not frozen",
        &[warning(
            "SELECT datname::text AS database, age(datfrozenxid)::bigint AS age FROM pg_database
             WHERE age(datfrozenxid) > {transaction_id_age} ORDER BY 2 DESC LIMIT 5",
            "the oldest unfrozen row of database `{database}` is {age} transactions old",
            "at about 2,100,000,000 the server refuses every write",
            "end long and prepared transactions, drop replication slots without a reader, then VACUUM in `{database}`",
        )],
    ),
    Check::new(Postgres, "pg-clock", "a clock that differs from this machine's", code!(check_clock)),
    Check::new(Postgres, "pg-disk", "a disk that is nearly full, if the server is on this machine", code!(check_disk)),
];

async fn check_open_append(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.postgres()?, on.config);
    let mut session = target.session(config).await?;
    let mut outcome = Outcome::healthy();
    let Some(open) = PgOpenAppend::load_on(session.connection(), target.schema()).await? else { return Ok(outcome) };
    if open.has_hidden {
        outcome.not_checked(
            "the age of an open append of a different role is hidden: GRANT pg_read_all_stats to the role of this \
             connection",
        );
    }
    let Some(age) = open.age.filter(|age| *age > config.open_append) else { return Ok(outcome) };
    let found = format!(
        "a transaction of `{}` that has appended events is open for {} s",
        open.application_name,
        age.as_secs()
    );
    let repair = match open.pid {
        Some(pid) => format!("SELECT pg_terminate_backend({pid})"),
        None => "it is a prepared transaction: ROLLBACK PREPARED with its name of `pg_prepared_xacts`".into(),
    };
    let consequence = "no reader of the feed gets past its events: handlers and projections stand still";
    let observed = json!({ "pid": open.pid, "application_name": open.application_name, "seconds": age.as_secs_f64() });
    outcome.add(Finding::fault(found, consequence, repair).observed(observed));
    Ok(outcome)
}

async fn check_clock(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let config = on.config;
    let mut session = on.postgres()?.session(config).await?;
    let before = config.clock.unix_millis();
    let server: f64 = session.row("SELECT {now} * 1000 AS ms", config).await?.get("ms")?;
    let after = config.clock.unix_millis();
    Ok(compare_clocks("PostgreSQL", before, server as u64, after, config).into())
}

/// Compares the clock of a server, read between two readings of this process's clock, in milliseconds since 1970.
pub(crate) fn compare_clocks(of: &str, before: u64, server: u64, after: u64, config: &DoctorConfig) -> Option<Finding> {
    let difference = server.saturating_sub(after).max(before.saturating_sub(server));
    if u128::from(difference) <= config.clock_skew.as_millis() {
        return None;
    }
    let direction = if server > after { "ahead of" } else { "behind" };
    let found = format!("the clock of {of} is {:.1} s {direction} this machine's", difference as f64 / 1_000.0);
    let consequence = "leases go by the server's clock, times of events by the process's: they contradict each other";
    let repair = "let NTP set the clocks of all machines (`timedatectl status`, `chronyc tracking`)";
    let observed = json!({ "server_ms": server, "process_ms": after });
    Some(Finding::warning(found, consequence, repair).observed(observed))
}

async fn check_disk(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.postgres()?;
    if !target.is_local() {
        return Err(DISK_ELSEWHERE);
    }
    let mut session = target.session(on.config).await?;
    let row = session.row("SELECT current_setting('data_directory') AS folder", on.config).await?;
    check_free_space(Path::new(&row.get::<String>("folder")?), on.config)
}
