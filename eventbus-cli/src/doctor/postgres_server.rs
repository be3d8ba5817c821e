//! Checks of the settings and the state of a PostgreSQL server.

use std::path::Path;

use eventstore_postgres::PgOpenAppend;
use serde_json::json;

use super::{
    config::DoctorConfig,
    disk::check_free_space,
    outcome::{CheckError, DISK_ELSEWHERE, Outcome},
    statement::{Database as _, Known, Row},
    subjects::Subjects,
};

pub(crate) async fn check_open_append(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
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
    outcome.row(json!({
        "pid": open.pid, "application_name": open.application_name, "seconds": age.as_secs_f64(), "_age": age.as_secs(),
        "_is_session": open.pid.is_some(), "_is_prepared": open.pid.is_none(),
    }));
    Ok(outcome)
}

pub(crate) async fn check_clock(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let config = on.config;
    let mut session = on.postgres()?.session(config).await?;
    let before = config.clock.unix_millis();
    let server: f64 = session.row("SELECT {now} * 1000 AS ms", config).await?.get("ms")?;
    let after = config.clock.unix_millis();
    Ok(compare_clocks("PostgreSQL", before, server as u64, after, config))
}

/// Compares the clock of a server, read between two readings of this process's clock, in milliseconds since 1970.
pub(crate) fn compare_clocks(of: &str, before: u64, server: u64, after: u64, config: &DoctorConfig) -> Outcome {
    let difference = server.saturating_sub(after).max(before.saturating_sub(server));
    Outcome::of_row(json!({
        "_is_off": u128::from(difference) > config.clock_skew.as_millis(), "_of": of,
        "_difference": difference as f64 / 1_000.0, "_direction": if server > after { "ahead of" } else { "behind" },
        "server_ms": server, "process_ms": after,
    }))
}

pub(crate) async fn check_disk(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.postgres()?;
    if !target.is_local() {
        return Err(DISK_ELSEWHERE);
    }
    let mut session = target.session(on.config).await?;
    let row = session.row("SELECT current_setting('data_directory') AS folder", on.config).await?;
    check_free_space(Path::new(&row.get::<String>("folder")?), on.config)
}

pub(crate) fn compare_standbys(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let Some(row) = rows.first() else { return Ok(Outcome::healthy()) };
    let (names, connected): (String, i64) = (row.get("names")?, row.get("connected")?);
    let is_missing = connected < synchronous_standbys(&names);
    let is_hidden = row.get::<i64>("hidden")? > 0;
    Ok(Outcome::of_row(json!({
        "_is_hidden": is_missing && is_hidden, "_is_missing": is_missing && !is_hidden, "names": names,
        "connected": connected,
    })))
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
