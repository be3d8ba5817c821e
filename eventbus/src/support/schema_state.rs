//! The migrations of a store's tables, for tools that show or run them.

use super::MigrationKind;

/// The migrations that a database has and those that a release knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaState {
    /// The migrations of the database, oldest first; also those of a later release. Empty if it has no tables.
    pub applied: Vec<Migration>,
    /// The migrations of this release, oldest first.
    pub known: Vec<Migration>,
}

/// One migration of a store's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its effect on a release that does not know it.
    pub kind: MigrationKind,
}

impl SchemaState {
    /// Returns the migrations of this release that the database does not have.
    pub fn missing(&self) -> impl Iterator<Item = &Migration> {
        let has = |version| self.applied.iter().any(|applied| applied.version == version);
        self.known.iter().filter(move |known| !has(known.version))
    }
}
