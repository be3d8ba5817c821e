//! A step of the migrations: what it changes, and whether older releases can go on beside it.

use eventbus::support::MigrationKind;

/// How a step runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MigrationBody {
    /// Statements in one transaction, together with the record of the step.
    Inside(&'static str),
    /// Statements that the server refuses in a transaction, such as `CREATE INDEX CONCURRENTLY`.
    Outside {
        /// Each runs by itself, in this order.
        statements: &'static [&'static str],
        /// An SQL expression that is true once the step is done.
        is_done: &'static str,
    },
}

/// One migration.
///
/// Rules for a new step:
/// - A change is a new step: no commit edits a released one.
/// - A step that an older release cannot work with is breaking. In a rolling deployment, release an additive step
///   first, and the breaking one when no process of the older release is left.
/// - **Each step can run again.** The script of an administrator runs all of them again, and a step outside of a
///   transaction may be interrupted anywhere. `CREATE INDEX CONCURRENTLY` then leaves an invalid index, which `IF NOT
///   EXISTS` would keep: so such a step begins with `DROP INDEX CONCURRENTLY IF EXISTS`, and `is_done` checks
///   `indisvalid`.
/// - A step inside a transaction is short: writers wait while it changes a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MigrationStep {
    version: u32,
    name: &'static str,
    kind: MigrationKind,
    body: MigrationBody,
}

impl MigrationStep {
    pub(crate) const fn inside(version: u32, name: &'static str, kind: MigrationKind, sql: &'static str) -> Self {
        Self { version, name, kind, body: MigrationBody::Inside(sql) }
    }

    #[cfg_attr(not(test), expect(dead_code, reason = "no released step needs it yet; the tests of migrations do"))]
    pub(crate) const fn outside(
        version: u32,
        name: &'static str,
        kind: MigrationKind,
        statements: &'static [&'static str],
        is_done: &'static str,
    ) -> Self {
        Self { version, name, kind, body: MigrationBody::Outside { statements, is_done } }
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

    pub(crate) const fn body(&self) -> MigrationBody {
        self.body
    }
}
