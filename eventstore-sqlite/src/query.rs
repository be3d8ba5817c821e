//! Statements, which a connection keeps prepared, and the rows that they return.

use std::path::Path;

use eventbus::port::ReadError;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension as _, Params, Row,
    types::{FromSql, Value},
};

/// A [`ReadError`] to which `?` also converts an error of SQLite.
#[derive(Debug, derive_more::From)]
pub(crate) struct QueryError(ReadError);

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                ReadError::corrupt("the database file", error)
            }
            _ => ReadError::Unavailable(error.into()),
        })
    }
}

impl From<QueryError> for ReadError {
    fn from(error: QueryError) -> Self {
        error.0
    }
}

/// Returns the parameter of an `ATTACH` that names a database. SQLite reads a blob as the text of its bytes, and so
/// opens a path that is not UTF-8.
pub(crate) fn path_parameter(database: &Path) -> Value {
    match database.to_str() {
        Some(path) => Value::Text(path.to_owned()),
        None => Value::Blob(database.as_os_str().as_encoded_bytes().to_vec()),
    }
}

/// Runs a statement that returns no rows, and returns the number of changed rows.
pub(crate) fn execute(connection: &Connection, sql: &str, parameters: impl Params) -> rusqlite::Result<usize> {
    connection.prepare_cached(sql)?.execute(parameters)
}

/// Runs a statement, and decodes its rows.
pub(crate) fn query_rows<T, E: From<rusqlite::Error>>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    decode: impl FnMut(&Row<'_>) -> Result<T, E>,
) -> Result<Vec<T>, E> {
    connection.prepare_cached(sql)?.query_and_then(parameters, decode)?.collect()
}

/// Runs a statement, and returns the first column of its first row; `None` if there is no row.
pub(crate) fn query_value<T: FromSql>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> rusqlite::Result<Option<T>> {
    connection.prepare_cached(sql)?.query_row(parameters, |row| row.get(0)).optional()
}
