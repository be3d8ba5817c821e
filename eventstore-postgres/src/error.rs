//! Errors of connecting and of transactions.

use std::time::Duration;

use eventbus::BoxError;

/// An error of connecting to a database, or of creating its tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgConnectError {
    /// The database URL is invalid. It may hold a password, so the error does not show it.
    #[error(
        "invalid database URL; expected `postgres://user:password@host:port/database`, the password percent-encoded"
    )]
    InvalidUrl {
        /// The cause.
        source: BoxError,
    },
    /// The URL has a parameter that the driver would ignore. The error does not show its value.
    #[error("the database URL has a parameter `{parameter}` that is not known; {hint}")]
    UnknownParameter {
        /// Its name, shortened, control characters escaped.
        parameter: String,
        /// The correction.
        hint: String,
    },
    /// The name of the schema is invalid.
    #[error("invalid schema name `{schema}`: {reason}")]
    InvalidSchema {
        /// The name, shortened, control characters escaped.
        schema: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A field of the configuration is invalid.
    #[error("invalid `{field}`: {reason}")]
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// An environment variable that [`from_env`](crate::PgEventStoreConfig::from_env) reads is missing or invalid. The
    /// error does not show its value.
    #[error("the environment variable `{variable}` {problem}")]
    InvalidVariable {
        /// The variable.
        variable: &'static str,
        /// The problem: a verb phrase that follows the variable.
        problem: &'static str,
    },
    /// The pool of the application has fewer connections than the store needs at once: with fewer, statements and
    /// transactions would wait for each other's connections.
    #[error(
        "the pool has at most {connections} connections, the store needs {needed}: {transactions} for transactions \
         (`max_transactions`), {} for notifications (`notify`), and 1 for the statements that a handler runs beside its \
         transaction", u32::from(*notify)
    )]
    PoolTooSmall {
        /// The `max_connections` of the pool.
        connections: u32,
        /// The connections that the store needs at least.
        needed: u32,
        /// The number of these for transactions; 0 with `max_transactions: Some(0)`.
        transactions: u32,
        /// Set if one of these is for notifications; not with `notify: false`.
        notify: bool,
    },
    /// The application has closed the pool.
    #[error("the pool is closed")]
    PoolClosed,
    /// The server could not be reached, or did not answer in time.
    #[error("PostgreSQL at `{server}` cannot be reached")]
    Unreachable {
        /// The server, without the password.
        server: String,
        /// The error of the connection.
        source: BoxError,
    },
    /// The server answered with an error: the login, the database or a right is missing.
    #[error("PostgreSQL at `{server}` refuses")]
    Refused {
        /// The server, without the password.
        server: String,
        /// The error of the server.
        source: BoxError,
    },
    /// The set-up of the server or the database breaks a promise of the store.
    #[error("PostgreSQL at `{server}`: {fault}; to repair: {}", fault.repair())]
    Precondition {
        /// The server, without the password.
        server: String,
        /// The precondition that is not met.
        fault: PgPrecondition,
    },
    /// The tables do not exist, or are older than this release, and `migrate` is false; or a step must run outside of a
    /// transaction, and the store is on a pool of the application.
    #[error(
        "schema `{schema}` is at migration {found}, this release needs {needed}: run `PgEventStore::migrate` \
         or the command `eventbus migrate`, or have an administrator run the text of `PgEventStore::migrations_sql`"
    )]
    NotMigrated {
        /// The schema.
        schema: String,
        /// The newest migration in the database; 0 is none.
        found: u32,
        /// The newest migration of this release.
        needed: u32,
    },
    /// A newer release changed the tables in a way that this release cannot work with.
    #[error(
        "schema `{schema}` has the breaking migration {breaking} `{name}`, this release knows migrations up to {known}: \
         upgrade eventstore-postgres"
    )]
    SchemaTooNew {
        /// The schema.
        schema: String,
        /// The first migration in the database that this release does not know and cannot work with.
        breaking: u32,
        /// Its name.
        name: String,
        /// The newest migration of this release.
        known: u32,
    },
    /// A program from before the first release, or a different application, made the tables.
    #[error(
        "schema `{schema}` has tables that were made before the first release, or by a different application: {found}; \
         export the events with the program that stored them, or start with a new schema or database"
    )]
    OldLayout {
        /// The schema.
        schema: String,
        /// What shows it.
        found: String,
    },
    /// A step of the migration failed; it has changed nothing, and the steps before it stay.
    ///
    /// Only a step outside of a transaction, such as building an index while writers go on, may have had an effect; it
    /// runs again when a process connects or migrates the next time.
    #[error("migration {version} `{name}` of schema `{schema}` failed")]
    MigrationFailed {
        /// The schema.
        schema: String,
        /// The step.
        version: u32,
        /// Its name.
        name: &'static str,
        /// The error of the server.
        source: BoxError,
    },
    /// A different session migrates the tables, or has locked one that a step changes, for longer than
    /// [`migration_timeout`](crate::PgEventStoreConfig::migration_timeout).
    #[error(
        "schema `{schema}` cannot be migrated: {holder} has held a lock for {waited:.0?}; wait for it, or end it with \
         pg_terminate_backend"
    )]
    MigrationBlocked {
        /// The schema.
        schema: String,
        /// The session that holds the lock: its backend, its application, and the age of its transaction.
        holder: String,
        /// The time for which this process has waited.
        waited: Duration,
    },
}

impl PgConnectError {
    /// Returns `true` if connecting again can succeed without a change of the set-up.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::MigrationBlocked { .. })
    }
}

/// A precondition of the store's promises, which the server or the database does not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PgPrecondition {
    /// The server is too old.
    #[error("the server is version {}.{}, at least 13 is needed", number / 10_000, number % 10_000)]
    ServerVersion {
        /// `server_version_num`.
        number: i32,
    },
    /// The server is a standby: it takes no writes, and the locks behind the feed are not replicated to it.
    #[error("the server is a standby")]
    Standby,
    /// Transactions are read-only.
    #[error("transactions are read-only by default")]
    ReadOnly,
    /// A commit does not wait for the disk: a crash would lose events that readers have seen.
    #[error("`synchronous_commit` is off")]
    SynchronousCommitOff,
    /// The database is not UTF-8.
    #[error("the database is encoded in {encoding}")]
    Encoding {
        /// Its encoding.
        encoding: String,
    },
    /// The sequence of positions does not hand out numbers one by one, upward: the feed could skip events.
    #[error("sequence `{sequence}` has cache {cache}, increment {increment}, cycle {cycle}")]
    SequenceSettings {
        /// The sequence.
        sequence: String,
        /// The numbers that a connection takes at once; must be 1.
        cache: i64,
        /// The step; must be 1.
        increment: i64,
        /// Set if the sequence starts again at its end; must be false.
        cycle: bool,
    },
    /// The role may not read a sequence. Newer servers then return no last number, so that the store would seem empty.
    #[error("the role may not read the sequence `{sequence}`")]
    SequenceHidden {
        /// The sequence.
        sequence: String,
    },
    /// A sequence is behind the events, streams or tags that it numbers, after a partial restore or a `setval`: appends
    /// would draw numbers that are in use.
    #[error("sequence `{sequence}` is at {drawn}, but {stored} is stored already")]
    SequenceBehind {
        /// The sequence.
        sequence: String,
        /// The last number it handed out.
        drawn: i64,
        /// The highest number that is stored.
        stored: i64,
    },
}

impl PgPrecondition {
    /// Returns the repair: an SQL statement where one helps.
    #[must_use]
    pub fn repair(&self) -> String {
        match self {
            Self::ServerVersion { .. } => "upgrade the server".into(),
            Self::Standby => "connect to the primary".into(),
            Self::ReadOnly => {
                "connect to the primary, or undo `default_transaction_read_only` (ALTER ROLE … or ALTER DATABASE … \
                 RESET default_transaction_read_only)"
                    .into()
            }
            Self::SynchronousCommitOff => {
                "ALTER ROLE … SET synchronous_commit = on (`local` and `remote_*` are fine too), also in the \
                 database, the server's configuration and the URL"
                    .into()
            }
            Self::Encoding { .. } => "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0".into(),
            Self::SequenceSettings { sequence, .. } => {
                format!("ALTER SEQUENCE {sequence} CACHE 1 INCREMENT 1 NO CYCLE")
            }
            Self::SequenceHidden { sequence } => format!("GRANT SELECT, USAGE ON SEQUENCE {sequence} TO …"),
            Self::SequenceBehind { sequence, stored, .. } => {
                format!("stop all writers, then SELECT setval('{sequence}', {stored})")
            }
        }
    }
}

/// An error of a transaction of a store; other errors are those of the driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgTransactionError {
    /// The transaction took too long; the server rolls it back, unless it was being committed.
    #[error("the transaction took longer than {limit:?}")]
    TimedOut {
        /// [`transaction_timeout`](crate::PgEventStoreConfig::transaction_timeout), plus the extra time of a
        /// transaction that sets up tables or replaces their rows.
        limit: Duration,
    },
    /// The store has no transactions: [`max_transactions`](crate::PgOnPoolConfig::max_transactions) is `Some(0)`.
    #[error("the store has no transactions: its `max_transactions` is 0")]
    NoTransactions,
    /// The `set_up` of a projection ended its transaction. If it committed, its earlier changes are kept.
    #[error("the statements ended their transaction; leave begin, commit and rollback to the store")]
    EndedBySetUp,
    /// The name of a table or a column is invalid.
    #[error("invalid name of a table or column `{name}`: {reason}")]
    InvalidName {
        /// The name, shortened, control characters escaped.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The search path has no such table.
    #[error("table `{table}` does not exist in the search path")]
    NoTable {
        /// The table.
        table: String,
    },
    /// The table has no such column, or does not exist.
    #[error("table `{table}` has no column `{column}`")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A table outside of the shadow refers to the rows: replacing them would delete or change rows there, or the
    /// server would refuse it.
    #[error(
        "rows of `{table}` cannot be replaced: `{by}` refers to them by a foreign key; name it among the tables of the \
         projection too, or make the key `ON DELETE NO ACTION DEFERRABLE`"
    )]
    Referred {
        /// The table whose rows are to be replaced.
        table: String,
        /// The table that refers to it.
        by: String,
    },
    /// The transaction works in a shadow, where the names of live tables mean the copies, and cannot replace live rows.
    #[error("a transaction within a shadow cannot replace rows of live tables")]
    InShadow,
}
