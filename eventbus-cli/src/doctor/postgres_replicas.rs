//! Checks of copies of a PostgreSQL database: standbys, replication slots, the archive.

use serde_json::json;

use super::{
    check::Check,
    finding::Finding,
    outcome::{CheckError, Outcome},
    statement::{Known, Row, judged, note, warning},
    subjects::Subject::Postgres,
};

pub(crate) const CHECKS: &[Check] = &[
    Check::sql(
        Postgres,
        "pg-sync-standby",
        "commits that wait for a standby which is not there",
        &[judged(
            "SELECT current_setting('synchronous_standby_names') AS names,
                count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS connected,
                count(*) FILTER (WHERE sync_state IS NULL) AS hidden
             FROM pg_stat_replication",
            compare_standbys,
        )],
    ),
    Check::sql(
        Postgres,
        "pg-slot",
        "replication slots without a reader",
        &[warning(
            "SELECT slot_name::text AS slot, held AS held_bytes, held >> 20 AS _mib, quote_literal(slot_name) AS _quoted
             FROM (
                SELECT slot_name, coalesce(pg_wal_lsn_diff(
                    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                    restart_lsn), 0)::bigint AS held
                FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL) s
             ORDER BY held DESC LIMIT 20",
            "the replication slot `{slot}` has no reader, and holds {_mib} MiB of the log",
            "the server removes no log that the slot has yet to send, until the disk is full",
            "start its standby, or SELECT pg_drop_replication_slot({_quoted}); bound it by `max_slot_wal_keep_size`",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-archive",
        "an archive that fails",
        &[warning(
            "SELECT failed_count AS failures, coalesce(last_failed_wal, '') AS file
             FROM pg_stat_archiver
             WHERE current_setting('archive_mode') <> 'off'
                AND last_failed_time > coalesce(last_archived_time, '-infinity')",
            "the archive fails: the last failure, of {failures}, was at `{file}`",
            "there is no later time to restore to, and the log stays until the disk is full",
            "read the server's log for the error of `archive_command`, and repair it",
        )],
    ),
    Check::sql(
        Postgres,
        "pg-single-copy",
        "a database without a standby and an archive",
        &[note(
            "SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_replication) AND NOT EXISTS (SELECT FROM pg_replication_slots)
                AND current_setting('archive_mode') = 'off'",
            "the server has no standby and no archive",
            "a lost disk loses all events since the last backup",
            "make backups, or archive the log (`archive_mode`), or run a standby",
        )],
    ),
];

fn compare_standbys(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let Some(row) = rows.first() else { return Ok(Outcome::healthy()) };
    let (names, connected): (String, i64) = (row.get("names")?, row.get("connected")?);
    if connected >= synchronous_standbys(&names) {
        return Ok(Outcome::healthy());
    }
    if row.get::<i64>("hidden")? > 0 {
        let reason = "the states of the standbys are hidden: GRANT pg_read_all_stats to the role of this connection";
        return Err(CheckError::Other(reason.into()));
    }
    let found = format!("`synchronous_standby_names` is `{names}`, and {connected} such standbys are connected");
    let consequence = "every commit waits, so that no save returns";
    let repair = "start the standby, or ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()";
    let observed = json!({ "names": names, "connected": connected });
    Ok(Finding::fault(found, consequence, repair).observed(observed).into())
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
