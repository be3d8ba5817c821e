//! Checks of the settings and the state of a PostgreSQL server.

use std::{path::Path, time::Duration};

use eventstore_postgres::PgOpenAppend;
use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    disk::check_free_space,
    finding::Finding,
    outcome::{CheckError, DISK_ELSEWHERE, Outcome},
    postgres_target::PostgresTarget,
};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "pg-server",
        "a server that the store refuses: version, encoding, standby, read-only",
        Run::Postgres(|target, config| Box::pin(check_server(target, config))),
    ),
    Check::new(
        "pg-sync-commit",
        "`synchronous_commit` off, for the server, a database or a role",
        Run::Postgres(|target, config| Box::pin(check_synchronous_commit(target, config))),
    ),
    Check::new(
        "pg-fsync",
        "`fsync` or `full_page_writes` off",
        Run::Postgres(|target, config| Box::pin(check_fsync(target, config))),
    ),
    Check::new(
        "pg-long-transaction",
        "transactions that are open for long",
        Run::Postgres(|target, config| Box::pin(check_long_transactions(target, config))),
    ),
    Check::new(
        "pg-open-append",
        "an append whose transaction stays open",
        Run::PostgresStore(|target, config| Box::pin(check_open_append(target, config))),
    ),
    Check::new(
        "pg-prepared",
        "prepared transactions without an end",
        Run::Postgres(|target, config| Box::pin(check_prepared(target, config))),
    ),
    Check::new(
        "pg-connections",
        "connections that are nearly used up",
        Run::Postgres(|target, config| Box::pin(check_connections(target, config))),
    ),
    Check::new(
        "pg-transaction-ids",
        "rows that vacuum has not frozen",
        Run::Postgres(|target, config| Box::pin(check_transaction_ids(target, config))),
    ),
    Check::new(
        "pg-clock",
        "a clock that differs from this machine's",
        Run::Postgres(|target, config| Box::pin(check_clock(target, config))),
    ),
    Check::new(
        "pg-disk",
        "a disk that is nearly full, if the server is on this machine",
        Run::Postgres(|target, config| Box::pin(check_disk(target, config))),
    ),
];

const VERSION_MIN: i32 = 130_000;

async fn check_server(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (version, encoding, standby, read_only, database): (i32, String, bool, bool, String) = target
        .session(config)
        .await?
        .row(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
             pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',
             quote_ident(current_database())",
        )
        .await?;
    let observed = json!({ "version": version, "encoding": encoding, "standby": standby, "read_only": read_only });
    let refused = "the store refuses to connect";
    let mut outcome = Outcome::healthy();
    if version < VERSION_MIN {
        let found = format!("the server is PostgreSQL {}", version / 10_000);
        let fault = Finding::fault(found, refused, "upgrade the server to PostgreSQL 13 or newer");
        outcome.add(fault.observed(observed.clone()));
    }
    if encoding != "UTF8" {
        let found = format!("the encoding of the database is {encoding}");
        let repair = "create the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0";
        outcome.add(Finding::fault(found, refused, repair).observed(observed.clone()));
    }
    if standby {
        let fault = Finding::fault("the server is a standby", refused, "connect to the primary");
        outcome.add(fault.observed(observed));
    } else if read_only {
        // without the first statement a session may not make the second one
        let repair = format!(
            "find out where `default_transaction_read_only` is set, and remove it; for the database by SET \
             default_transaction_read_only = off; ALTER DATABASE {database} RESET default_transaction_read_only"
        );
        let fault = Finding::fault("transactions are read-only by default", refused, repair);
        outcome.add(fault.observed(observed));
    }
    Ok(outcome)
}

async fn check_synchronous_commit(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    const CONSEQUENCE: &str = "a crash of the server loses saves that it has acknowledged";
    let mut session = target.session(config).await?;
    let by_role: Vec<(String, String)> = session
        .rows(
            "SELECT coalesce(r.rolname, '')::text, coalesce(d.datname, '')::text
             FROM pg_db_role_setting s
             CROSS JOIN unnest(s.setconfig) c
             LEFT JOIN pg_roles r ON r.oid = s.setrole
             LEFT JOIN pg_database d ON d.oid = s.setdatabase
             WHERE c ~* '^synchronous_commit=(off|false|no|0)$'
               AND (s.setdatabase = 0 OR d.datname = current_database())",
        )
        .await?;
    let mut outcome: Outcome = by_role
        .into_iter()
        .map(|(role, database)| {
            let (of, alter) = match (role.as_str(), database.as_str()) {
                ("", "") => ("all roles".to_owned(), "ALTER ROLE ALL".to_owned()),
                ("", database) => (format!("database `{database}`"), format!("ALTER DATABASE \"{database}\"")),
                (role, "") => (format!("role `{role}`"), format!("ALTER ROLE \"{role}\"")),
                (role, database) => (
                    format!("role `{role}` in database `{database}`"),
                    format!("ALTER ROLE \"{role}\" IN DATABASE \"{database}\""),
                ),
            };
            let repair = format!("{alter} RESET synchronous_commit");
            Finding::fault(format!("`synchronous_commit` is off for {of}"), CONSEQUENCE, repair)
                .observed(json!({ "role": role, "database": database }))
        })
        .collect();
    let of_session: Vec<(String,)> = session
        .rows(
            "SELECT source FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'
             AND source NOT IN ('global', 'database', 'user', 'database user')",
        )
        .await?;
    for (source,) in of_session {
        let repair = repair_of_setting("synchronous_commit", &source);
        let fault = Finding::fault(format!("`synchronous_commit` is off (source: {source})"), CONSEQUENCE, repair);
        outcome.add(fault.observed(json!({ "source": source })));
    }
    Ok(outcome)
}

/// Returns the repair of a setting that is off, by the source of its value.
pub(crate) fn repair_of_setting(name: &str, source: &str) -> String {
    match source {
        // it takes precedence over the files of the server
        "command line" => format!("remove `{name}` from the command line of the server, and restart the server"),
        "client" => "remove it from the options of the connection".to_owned(),
        _ => format!("ALTER SYSTEM SET {name} = 'on'; SELECT pg_reload_conf()"),
    }
}

async fn check_fsync(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let off: Vec<(String, String)> = target
        .session(config)
        .await?
        .rows(
            "SELECT name, source FROM pg_settings
             WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY 1",
        )
        .await?;
    let finding = |(name, source): (String, String)| {
        let repair = repair_of_setting(&name, &source);
        let consequence = "a power failure damages the database, all of it";
        Finding::fault(format!("`{name}` is off"), consequence, repair).observed(json!({ "setting": name }))
    };
    Ok(off.into_iter().map(finding).collect())
}

/// Returns a duration in seconds, as PostgreSQL expects it.
fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

async fn check_long_transactions(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let mut session = target.session(config).await?;
    let open: Vec<(i32, String, String, f64)> = session
        .rows_with(
            "SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
                extract(epoch FROM clock_timestamp() - xact_start)::float8
             FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
               AND extract(epoch FROM clock_timestamp() - xact_start) > $1
             ORDER BY xact_start LIMIT 20",
            |statement| statement.bind(seconds(config.long_transaction)),
        )
        .await?;
    let finding = |(pid, application, state, age): (i32, String, String, f64)| {
        let found = format!("a transaction of `{application}` (process {pid}, {state}) is open for {age:.0} s");
        let consequence = "vacuum removes no row that became dead since, in any table";
        let repair = format!(
            "SELECT pg_terminate_backend({pid}); set `idle_in_transaction_session_timeout` for the role that began it"
        );
        let observed = json!({ "pid": pid, "application_name": application, "state": state, "seconds": age });
        Finding::warning(found, consequence, repair).observed(observed)
    };
    let mut outcome: Outcome = open.into_iter().map(finding).collect();
    let (hidden,): (i64,) = session
        .row(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND query = '<insufficient privilege>'",
        )
        .await?;
    if hidden > 0 {
        outcome.not_checked(format!(
            "{hidden} sessions of different roles are hidden: GRANT pg_read_all_stats to the role of this connection"
        ));
    }
    Ok(outcome)
}

async fn check_open_append(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
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

async fn check_prepared(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let prepared: Vec<(String, String, f64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
             FROM pg_prepared_xacts
             WHERE database = current_database() AND extract(epoch FROM clock_timestamp() - prepared) > $1
             ORDER BY prepared LIMIT 20",
            |statement| statement.bind(seconds(config.prepared_transaction)),
        )
        .await?;
    let finding = |(name, owner, age): (String, String, f64)| {
        let found = format!("the prepared transaction `{name}` of `{owner}` is {age:.0} s old");
        let consequence = "it keeps its locks over restarts: vacuum stands still, and the feed if it appended events";
        let repair = format!("ROLLBACK PREPARED '{}'", name.replace('\'', "''"));
        let observed = json!({ "name": name, "owner": owner, "seconds": age });
        Finding::fault(found, consequence, repair).observed(observed)
    };
    Ok(prepared.into_iter().map(finding).collect())
}

async fn check_connections(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (used, most): (i64, i64) = target
        .session(config)
        .await?
        .row(
            "SELECT (SELECT sum(numbackends) FROM pg_stat_database)::bigint,
             current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint",
        )
        .await?;
    if used as f64 <= config.connections_share * most as f64 {
        return Ok(Outcome::healthy());
    }
    let found = format!("{used} of {most} connections are in use");
    let consequence = "the next process cannot connect, and a store that lost its connections neither";
    let repair = "lower `max_connections` of the stores, stop idle clients, or raise the server's `max_connections`";
    let observed = json!({ "used": used, "max": most });
    Ok(Some(Finding::warning(found, consequence, repair).observed(observed)).into())
}

async fn check_transaction_ids(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let old: Vec<(String, i64)> = target
        .session(config)
        .await?
        .rows_with(
            "SELECT datname::text, age(datfrozenxid)::bigint FROM pg_database
             WHERE age(datfrozenxid) > $1 ORDER BY 2 DESC LIMIT 5",
            |statement| statement.bind(i64::from(config.transaction_id_age)),
        )
        .await?;
    let finding = |(database, age): (String, i64)| {
        let found = format!("the oldest unfrozen row of database `{database}` is {age} transactions old");
        let consequence = "at about 2,100,000,000 the server refuses every write";
        let repair = format!(
            "end long and prepared transactions, drop replication slots without a reader, then VACUUM in `{database}`"
        );
        Finding::warning(found, consequence, repair).observed(json!({ "database": database, "age": age }))
    };
    Ok(old.into_iter().map(finding).collect())
}

async fn check_clock(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let mut session = target.session(config).await?;
    let before = config.clock.unix_millis();
    let (server,): (f64,) = session.row("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000").await?;
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

async fn check_disk(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    if !target.is_local() {
        return Err(DISK_ELSEWHERE);
    }
    let (folder,): (String,) = target.session(config).await?.row("SELECT current_setting('data_directory')").await?;
    check_free_space(Path::new(&folder), config)
}
