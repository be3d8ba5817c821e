//! Checks of the contents of a store of any kind: events, checkpoints, leases, dead letters.
//!
//! The SQL stores share the statements of `checks.sql`; the facts of a store on Redis come through its ports.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    config::DoctorConfig,
    outcome::{CheckError, Outcome},
    statement::{Known, Row, parse_all},
};

/// The most streams with missing events that a finding names.
const NAMED_MAX: usize = 5;

/// A stream that lacks events below its version.
#[derive(Debug, Serialize, Deserialize)]
struct DamagedStream {
    aggregate_type: String,
    aggregate_id: String,
    version: i64,
    wanted: i64,
    found: i64,
}

/// Reports damaged streams, of which a check loads 20 at most.
pub(crate) fn compare_streams(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let damaged: Vec<DamagedStream> = parse_all(rows)?;
    let name = |stream: &DamagedStream| {
        let DamagedStream { aggregate_type, aggregate_id, version, wanted, found } = stream;
        format!("{aggregate_type} {aggregate_id} (version {version}: {found} of {wanted})")
    };
    let named: Vec<_> = damaged.iter().take(NAMED_MAX).map(name).collect();
    let least = if damaged.len() == 20 { "at least " } else { "" };
    let number = format!("{least}{}", damaged.len());
    Ok(Outcome::of_row(json!({
        "_is_damaged": !damaged.is_empty(), "_number": number, "_list": named.join(", "), "streams": damaged,
    })))
}

pub(crate) fn compare_event_types(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let stored = rows.iter().map(|row| Ok((row.get("event_type")?, row.get("schema_version")?)));
    let stored: Vec<(String, i64)> = stored.collect::<Result<_, CheckError>>()?;
    Ok(known.types.map_or_else(Outcome::healthy, |types| types.compare(&stored)))
}

pub(crate) fn compare_dead_letters(rows: &[Row], known: Known<'_>) -> Result<Outcome, CheckError> {
    let age: Option<f64> = rows.first().map(|row| row.get("age")).transpose()?.flatten();
    let age = Duration::try_from_secs_f64(age.unwrap_or_default()).unwrap_or_default();
    Ok(compare_retention(age, known.config))
}

/// Compares the age of the oldest dead letter with the retention of the inbox.
pub(crate) fn compare_retention(age: Duration, config: &DoctorConfig) -> Outcome {
    const DAY: u64 = 24 * 3_600;
    let (age, retention) = (age.as_secs(), config.inbox_retention.as_secs());
    Outcome::of_row(json!({
        "_is_forgotten": age > retention, "_days": age / DAY, "_retention_days": retention / DAY, "age_seconds": age,
        "retention_seconds": retention,
    }))
}
