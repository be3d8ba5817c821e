//! Tables by their definitions: copying, emptying and filling them.

use rusqlite::{Connection, config::DbConfig};

use crate::error::SqliteTransactionError;

/// Longest name of a table or column in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Refuses a name that is not plain, or that is one of a table of the store.
pub(crate) fn check_table(name: &str) -> Result<(), SqliteTransactionError> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("eventbus_") || lower.starts_with("sqlite_") {
        return Err(SqliteTransactionError::InvalidName {
            name: name.into(),
            reason: "it is reserved for the store or SQLite",
        });
    }
    check_name(name)
}

/// Refuses a name that is not plain.
pub(crate) fn check_name(name: &str) -> Result<(), SqliteTransactionError> {
    let is_plain = |name: &str| name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    let fault =
        |reason| Err(SqliteTransactionError::InvalidName { name: name.chars().take(NAME_BYTES_MAX).collect(), reason });
    match name.chars().next() {
        None => fault("it is empty"),
        Some(first) if first.is_ascii_digit() => fault("it begins with a digit"),
        _ if !is_plain(name) => fault("only ASCII letters, digits and `_` are allowed, and no schema"),
        _ if name.len() > NAME_BYTES_MAX => fault("it is longer than 128 bytes"),
        _ => Ok(()),
    }
}

/// The statements that make tables with their indexes and triggers.
pub(crate) struct TableDefinitions(Vec<String>);

impl TableDefinitions {
    pub(crate) fn from_live_tables(connection: &Connection, tables: &[String]) -> Result<Self, SqliteTransactionError> {
        let mut statements = Vec::new();
        let mut parts = connection.prepare(include_str!("sql/table_parts.sql"))?;
        for table in tables {
            let of_table: Vec<(String, String)> =
                parts.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
            if of_table.first().is_none_or(|(kind, _)| kind != "table") {
                return Err(SqliteTransactionError::NoTable { table: table.clone() });
            }
            statements.extend(of_table.into_iter().map(|(_, sql)| sql));
        }
        Ok(Self(statements))
    }

    pub(crate) fn as_text(&self) -> String {
        self.0.join(";\n")
    }

    pub(crate) fn create(&self, connection: &Connection) -> rusqlite::Result<()> {
        self.0.iter().try_for_each(|statement| connection.execute_batch(statement))
    }
}

/// Replaces the rows of live tables by those of the tables of that name in schema `from`.
///
/// Triggers and foreign keys are off: they already took effect when the copies were filled.
pub(crate) fn replace_rows(connection: &Connection, from: &str, tables: &[String]) -> rusqlite::Result<()> {
    const TRIGGERS_AND_FOREIGN_KEYS: [DbConfig; 2] =
        [DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY];
    let mut former = Vec::new();
    for option in TRIGGERS_AND_FOREIGN_KEYS {
        former.push((option, connection.db_config(option)?));
        connection.set_db_config(option, false)?;
    }
    let replaced = copy_rows(connection, from, tables);
    for (option, was_on) in former {
        connection.set_db_config(option, was_on)?;
    }
    replaced
}

fn copy_rows(connection: &Connection, from: &str, tables: &[String]) -> rusqlite::Result<()> {
    // the last first: a full-text table looks up the words that it removes in the rows of the table with the texts
    for table in tables.iter().rev() {
        connection.execute(&format!("DELETE FROM main.\"{table}\""), [])?;
    }
    for table in tables {
        let columns = columns(connection, table)?;
        // with the name of the copy: SQLite reads a quoted name that is no column as a string
        let copied: Vec<String> = columns.iter().map(|column| format!("copy.{column}")).collect();
        let (columns, copied) = (columns.join(", "), copied.join(", "));
        let sql = format!("INSERT INTO main.\"{table}\" ({columns}) SELECT {copied} FROM {from}.\"{table}\" AS copy");
        connection.execute(&sql, [])?;
    }
    Ok(())
}

/// Returns the columns that are not computed, in quotes, after the rowid if the table has one: statements find the rows
/// of a full-text table, or of a table without a key, by the rowid.
fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut names = Vec::new();
    let has_rowid = "SELECT NOT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
    if connection.query_row(has_rowid, [table], |row| row.get::<_, bool>(0))? {
        names.push("rowid".to_owned());
    }
    let mut given =
        connection.prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY cid")?;
    for name in given.query_map([table], |row| row.get::<_, String>(0))? {
        names.push(format!("\"{}\"", name?.replace('"', "\"\"")));
    }
    Ok(names)
}
