//! Checks of the tables, indexes and sequences of a store on PostgreSQL.

use eventbus::support::MigrationKind;
use serde::Deserialize;
use serde_json::json;

use super::{
    finding::{Finding, Severity},
    outcome::{CheckError, Outcome},
    statement::{Known, Row, parse_all},
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
    let newer =
        applied.iter().filter(|migration| migration.version > known).map(|Migration { version, name, kind }| {
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
        (1..=known).filter(|known| !applied.iter().any(|migration| migration.version == *known)).collect();
    let older = (!missing.is_empty()).then(|| {
        let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Finding::warning(
            format!("the tables lack migrations of this release: {list}"),
            "a process of this release that does not migrate refuses to start",
            "run the migrations, with a role that owns the tables",
        )
        .observed(json!({ "missing": missing, "known": known }))
    });
    Ok(newer.chain(older).collect())
}

/// A missing index.
#[derive(Debug, Deserialize)]
struct WantedIndex {
    table: String,
    name: String,
    columns: String,
    is_unique: bool,
    /// An index on these columns.
    other: Option<String>,
    /// Set if only the name of the other one is wrong.
    is_misnamed: bool,
}

pub(crate) fn judge_indexes(rows: &[Row], _: Known<'_>) -> Result<Outcome, CheckError> {
    let finding = |wanted: WantedIndex| {
        let WantedIndex { table, name, columns, is_unique, other, is_misnamed } = wanted;
        let columns = columns.replace(',', ", ");
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
    Ok(parse_all(rows)?.into_iter().map(finding).collect())
}
