//! All statements of a store, filled in for its schema once, at connect.

use eventbus::ExpectedVersion;
use sqlx::SqlStr;

use crate::schema::Schema;

#[derive(Debug)]
pub(crate) struct Statements {
    append_new: SqlStr,
    append_exact: SqlStr,
    append_existing: SqlStr,
    append_any: SqlStr,
    pub(crate) resolve: SqlStr,
    pub(crate) read_forward: SqlStr,
    pub(crate) read_backward: SqlStr,
    pub(crate) stream_version: SqlStr,
    pub(crate) safe_bound: SqlStr,
    pub(crate) read_page: SqlStr,
    pub(crate) load_checkpoint: SqlStr,
    pub(crate) save_checkpoint: SqlStr,
}

impl Statements {
    pub(crate) fn new(schema: &Schema) -> Self {
        let append = |claim: &str| {
            schema.statement(&uncommented(include_str!("sql/append.sql")).replace("{claim}", &uncommented(claim)))
        };
        let statement =
            |sql: &str| schema.statement(&uncommented(sql).replace("{record}", include_str!("sql/record.sql").trim()));
        Self {
            append_new: append(include_str!("sql/claim_new.sql")),
            append_exact: append(include_str!("sql/claim_exact.sql")),
            append_existing: append(include_str!("sql/claim_existing.sql")),
            append_any: append(include_str!("sql/claim_any.sql")),
            resolve: statement(include_str!("sql/resolve.sql")),
            read_forward: statement(include_str!("sql/read_forward.sql")),
            read_backward: statement(include_str!("sql/read_backward.sql")),
            stream_version: statement(include_str!("sql/stream_version.sql")),
            safe_bound: statement(include_str!("sql/safe_bound.sql")),
            read_page: statement(include_str!("sql/read_page.sql")),
            load_checkpoint: statement(include_str!("sql/load_checkpoint.sql")),
            save_checkpoint: statement(include_str!("sql/save_checkpoint.sql")),
        }
    }

    /// The append that claims the stream as `expected` demands.
    pub(crate) fn append(&self, expected: ExpectedVersion) -> &SqlStr {
        match expected {
            ExpectedVersion::Any => &self.append_any,
            ExpectedVersion::StreamExists => &self.append_existing,
            ExpectedVersion::Exact(version) if version > eventbus::Version::NONE => &self.append_exact,
            ExpectedVersion::NoStream | ExpectedVersion::Exact(_) => &self.append_new,
        }
    }
}

/// Leaves out the comments: the text is the key of the statement cache, and what the server shows as running.
fn uncommented(sql: &str) -> String {
    let lines: Vec<_> = sql.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n").trim().into()
}
