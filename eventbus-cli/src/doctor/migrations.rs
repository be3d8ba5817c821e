//! The migrations of a store with SQL.

use eventbus::support::MigrationKind;
use serde::Deserialize;
use serde_json::json;

use super::{
    outcome::{CheckError, Outcome},
    statement::{Row, parse_all},
};

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
    let is_breaking = |kind: &str| MigrationKind::parse(kind) == MigrationKind::Breaking;
    let newer =
        applied.iter().filter(|migration| migration.version > known).map(|Migration { version, name, kind }| {
            json!({
                "_is_breaking": is_breaking(kind), "_is_newer": !is_breaking(kind), "version": version, "name": name,
                "kind": kind, "known": known,
            })
        });
    let missing: Vec<_> =
        (1..=known).filter(|known| !applied.iter().any(|migration| migration.version == *known)).collect();
    let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let older = json!({ "_is_older": !missing.is_empty(), "_list": list, "missing": missing, "known": known });
    Ok(newer.chain([older]).collect())
}
