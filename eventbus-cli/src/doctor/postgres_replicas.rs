//! Checks of copies of a PostgreSQL database: standbys, replication slots, the archive.

use serde_json::json;

use super::{
    check::{Check, Run},
    config::DoctorConfig,
    finding::Finding,
    outcome::{CheckError, Outcome},
    postgres_target::PostgresTarget,
};

pub(crate) const CHECKS: &[Check] = &[
    Check::new(
        "pg-sync-standby",
        "commits that wait for a standby which is not there",
        Run::Postgres(|target, config| Box::pin(check_synchronous_standby(target, config))),
    ),
    Check::new(
        "pg-slot",
        "replication slots without a reader",
        Run::Postgres(|target, config| Box::pin(check_slots(target, config))),
    ),
    Check::new(
        "pg-archive",
        "an archive that fails",
        Run::Postgres(|target, config| Box::pin(check_archive(target, config))),
    ),
    Check::new(
        "pg-single-copy",
        "a database without a standby and an archive",
        Run::Postgres(|target, config| Box::pin(check_copies(target, config))),
    ),
];

async fn check_synchronous_standby(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (names, synchronous, hidden): (String, i64, i64) = target
        .session(config)
        .await?
        .row(
            "SELECT current_setting('synchronous_standby_names'),
             (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
             (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL)",
        )
        .await?;
    let wanted = synchronous_standbys(&names);
    if synchronous >= wanted {
        return Ok(Outcome::healthy());
    }
    if hidden > 0 {
        let reason = "the states of the standbys are hidden: GRANT pg_read_all_stats to the role of this connection";
        return Err(CheckError::Other(reason.into()));
    }
    let found = format!("`synchronous_standby_names` is `{names}`, and {synchronous} such standbys are connected");
    let consequence = "every commit waits, so that no save returns";
    let repair = "start the standby, or ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()";
    Ok(Some(Finding::fault(found, consequence, repair).observed(json!({ "names": names, "connected": synchronous })))
        .into())
}

/// Returns the number of standbys for which a commit waits: `ANY 2 (a, b, c)`, `FIRST 2 (a, b)`, `2 (a, b)`; a list
/// alone means its first one.
fn synchronous_standbys(names: &str) -> i64 {
    if names.trim().is_empty() {
        return 0;
    }
    let Some((method, _)) = names.split_once('(') else { return 1 };
    let number = method.split_whitespace().next_back().and_then(|number| number.parse().ok());
    number.unwrap_or(1)
}

async fn check_slots(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let slots: Vec<(String, i64)> = target
        .session(config)
        .await?
        .rows(
            "SELECT slot_name::text, coalesce(pg_wal_lsn_diff(
                 CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                 restart_lsn), 0)::bigint
             FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 20",
        )
        .await?;
    let finding = |(name, held): (String, i64)| {
        let found = format!("the replication slot `{name}` has no reader, and holds {} MiB of the log", held >> 20);
        let consequence = "the server removes no log that the slot has yet to send, until the disk is full";
        let repair = format!(
            "start its standby, or SELECT pg_drop_replication_slot('{}'); bound it by `max_slot_wal_keep_size`",
            name.replace('\'', "''")
        );
        Finding::warning(found, consequence, repair).observed(json!({ "slot": name, "held_bytes": held }))
    };
    Ok(slots.into_iter().map(finding).collect())
}

async fn check_archive(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (failing, failures, file): (bool, i64, String) = target
        .session(config)
        .await?
        .row(
            "SELECT current_setting('archive_mode') <> 'off'
                 AND coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
             failed_count, coalesce(last_failed_wal, '')
             FROM pg_stat_archiver",
        )
        .await?;
    if !failing {
        return Ok(Outcome::healthy());
    }
    let found = format!("the archive fails: the last failure, of {failures}, was at `{file}`");
    let consequence = "there is no later time to restore to, and the log stays until the disk is full";
    let repair = "read the server's log for the error of `archive_command`, and repair it";
    let observed = json!({ "failures": failures, "file": file });
    Ok(Some(Finding::warning(found, consequence, repair).observed(observed)).into())
}

async fn check_copies(target: &PostgresTarget, config: &DoctorConfig) -> Result<Outcome, CheckError> {
    let (has_copy,): (bool,) = target
        .session(config)
        .await?
        .row(
            "SELECT EXISTS (SELECT FROM pg_stat_replication) OR EXISTS (SELECT FROM pg_replication_slots)
             OR current_setting('archive_mode') <> 'off'",
        )
        .await?;
    let finding = || {
        let consequence = "a lost disk loses all events since the last backup";
        let repair = "make backups, or archive the log (`archive_mode`), or run a standby";
        Finding::note("the server has no standby and no archive", consequence, repair)
    };
    Ok((!has_copy).then(finding).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_waits_for_as_many_standbys_as_the_setting_says() {
        for (names, number) in [
            ("", 0),
            (" ", 0),
            ("a", 1),
            ("a, b", 1),
            ("*", 1),
            ("2 (a, b)", 2),
            ("FIRST 2 (a, b, c)", 2),
            ("any 3(a, b, c)", 3),
        ] {
            assert_eq!(synchronous_standbys(names), number, "{names}");
        }
    }
}
