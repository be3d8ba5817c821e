//! The outcome of one check.

use eventbus_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use eventstore_postgres::sqlx;
use eventstore_sqlite::rusqlite::{self, ErrorCode as SqliteErrorCode};
use serde_json::Value;

use super::finding::Finding;
use crate::error::CommandError;

/// The findings of a check, and its parts that the server did not allow. Without either, all is well.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Facts, of which `checks.sql` makes findings.
    rows: Vec<Value>,
    findings: Vec<Finding>,
    not_checked: Vec<String>,
}

impl Outcome {
    pub(crate) fn healthy() -> Self {
        Self::default()
    }

    pub(crate) fn of_row(row: Value) -> Self {
        Self { rows: vec![row], ..Self::default() }
    }

    /// Adds facts, as a row with the columns that the texts of the check name.
    pub(crate) fn row(&mut self, row: Value) {
        self.rows.push(row);
    }

    pub(crate) fn take_rows(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.rows)
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Notes a part that the check could not see, with the reason.
    pub(crate) fn not_checked(&mut self, reason: impl Into<String>) {
        self.not_checked.push(reason.into());
    }

    pub(crate) fn into_parts(self) -> (Vec<Finding>, Vec<String>) {
        (self.findings, self.not_checked)
    }
}

impl FromIterator<Value> for Outcome {
    fn from_iter<I: IntoIterator<Item = Value>>(rows: I) -> Self {
        Self { rows: rows.into_iter().collect(), ..Self::default() }
    }
}

/// Reasons why a check could not be made; the text is for the report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("{}", describe_postgres(.0))]
    Postgres(#[from] sqlx::Error),
    #[error("{}", describe_redis(.0))]
    Redis(#[from] RedisError),
    #[error("{}", describe_sqlite(.0))]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Other(String),
    /// The check has to run elsewhere: as another role, or on another machine.
    #[error("{0}")]
    NotHere(&'static str),
}

impl CheckError {
    /// Returns `true` if the server gave no answer: it cannot be reached, or takes too long.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Postgres(error) => error.as_database_error().is_none(),
            Self::Redis(error) => {
                !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed)
            }
            // the file is missing, or may not be read
            Self::Sqlite(error) => error.sqlite_error_code() == Some(SqliteErrorCode::CannotOpen),
            Self::NotHere(_) => false,
            Self::Other(_) => true,
        }
    }

    /// Returns `true` if the file is no database of SQLite, or is damaged.
    pub(crate) fn is_damage(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(SqliteErrorCode::NotADatabase | SqliteErrorCode::DatabaseCorrupt))
    }
}

/// Returns the reason why a check was not made, for an error of a store.
pub(crate) fn unread(error: impl Into<CommandError>) -> CheckError {
    CheckError::Other(error.into().to_line())
}

/// The reason why the disk of a server on a different machine is not checked.
pub(crate) const DISK_ELSEWHERE: CheckError =
    CheckError::NotHere("the server is on a different machine, and shows no free disk space: monitor it there");

/// Returns `true` if the role of the connection lacks a right.
pub(crate) fn lacks_right(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|answer| answer.code()).as_deref() == Some(INSUFFICIENT_PRIVILEGE)
}

/// SQLSTATE of a right that the role lacks, and of a statement that took too long.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const QUERY_CANCELED: &str = "57014";

fn describe_postgres(error: &sqlx::Error) -> String {
    let Some(answer) = error.as_database_error() else {
        return format!("PostgreSQL gave no answer: {error}");
    };
    match answer.code().as_deref() {
        Some(INSUFFICIENT_PRIVILEGE) => format!("the role lacks a right: {}", answer.message()),
        Some(QUERY_CANCELED) => format!("it took too long: {}", answer.message()),
        _ => format!("PostgreSQL refused: {}", answer.message()),
    }
}

fn describe_redis(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => format!("the user lacks a right: {error}"),
        ErrorKind::Server(_) | ErrorKind::Extension => format!("Redis refused: {error}"),
        _ => format!("Redis gave no answer: {error}"),
    }
}

fn describe_sqlite(error: &rusqlite::Error) -> String {
    format!("SQLite refused: {error}")
}
