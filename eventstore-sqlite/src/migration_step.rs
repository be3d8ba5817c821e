//! A step of the migrations: what it changes, and whether older releases can go on beside it.

use eventbus::support::MigrationKind;

/// One migration, which runs in one transaction with its record.
///
/// A change is a new step: no commit edits a released one. A step that an older release cannot work with is breaking:
/// processes of the older release that share the file must end before it runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MigrationStep {
    version: u32,
    name: &'static str,
    kind: MigrationKind,
    sql: &'static str,
}

impl MigrationStep {
    pub(crate) const fn new(version: u32, name: &'static str, kind: MigrationKind, sql: &'static str) -> Self {
        Self { version, name, kind, sql }
    }

    pub(crate) const fn version(&self) -> u32 {
        self.version
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) const fn kind(&self) -> MigrationKind {
        self.kind
    }

    pub(crate) const fn sql(&self) -> &'static str {
        self.sql
    }
}
