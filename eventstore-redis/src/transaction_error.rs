//! The error of a transaction.

use std::time::Duration;

use eventbus::BoxError;

/// Reason why a transaction failed. It is not committed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTransactionError {
    /// The key is not allowed in a transaction.
    #[error("`{key}` is not allowed as a key of a transaction: {reason}")]
    InvalidKey {
        /// The key, without the store's prefix.
        key: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A rebuild writes only copies of the tables: any other key would be shared with the live projection.
    #[error("key `{key}` is in none of the tables that `{shadow}` fills: name it in `tables(..)`")]
    NotInTables {
        /// The key, without the store's prefix.
        key: String,
        /// The name of the rebuild.
        shadow: String,
    },
    /// The transaction has written the key by a command whose result only the server knows: read the key before you
    /// write it.
    #[error("this transaction has written key `{key}`, its value is not known before the commit")]
    ReadAfterBlindWrite {
        /// The key, without the store's prefix.
        key: String,
    },
    /// The command does not write to exactly one key, its first argument.
    #[error("`{command}` cannot be an effect: {reason}")]
    InvalidCommand {
        /// The command.
        command: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The server refused a command, for example because the key is of a different kind; the commit undid the effects
    /// before it.
    #[error("the server refused `{command}` on key `{key}`, the transaction is not committed")]
    EffectRefused {
        /// The command.
        command: String,
        /// The key, as the server knows it.
        key: String,
        /// The server's reason.
        source: BoxError,
    },
    /// A concurrent writer has changed a key that the transaction read, or a stream that it appends to: begin a new
    /// transaction.
    #[error("a concurrent writer changed key `{key}`, the transaction is not committed")]
    Changed {
        /// The key, as the server knows it.
        key: String,
    },
    /// The lease has passed to a new owner, or a concurrent transaction has moved the checkpoint or noted the delivery.
    #[error("the lease has a new owner, or a concurrent commit was first: the transaction is not committed")]
    Superseded,
    /// The transaction no longer has its locks: it took longer than `transaction_timeout`, or its process could not
    /// renew them for a second. A transaction that waited for a lock goes on.
    #[error("the transaction lost its locks, which it holds for {limit:?} at most: it is not committed")]
    TimedOut {
        /// The `transaction_timeout`.
        limit: Duration,
    },
    /// The operation is not possible on the copies of a rebuild.
    #[error("`{what}` is not possible in a rebuild")]
    InShadow {
        /// The operation.
        what: &'static str,
    },
    /// A store appends only in its own transactions.
    #[error("the transaction belongs to another store")]
    OtherStore,
    /// There is no rebuild of this name.
    #[error("there is no rebuild `{name}`")]
    NoShadow {
        /// The name.
        name: String,
    },
    /// The table does not have the rows of an aggregate under this column.
    #[error(
        "rows of `{table}` are not found by `{column}`: write `key = \"key\"` for tables such as `order:*`, of which \
         each aggregate has a key, and `key = \"field\"` for a hash with a field per aggregate"
    )]
    NoRows {
        /// The table.
        table: String,
        /// The column that was to find them.
        column: String,
    },
    /// The server could not be reached, or cannot run commands now; the transaction is not committed.
    #[error("the Redis of the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The connection broke after the commit was sent: the transaction may be committed or not.
    #[error("the connection broke: the transaction may be committed or not")]
    OutcomeUnknown(#[source] BoxError),
}

impl RedisTransactionError {
    pub(crate) fn unavailable(error: eventbus_redis_core::error::CommandError) -> Self {
        Self::Unavailable(eventbus_redis_core::error::boxed(error))
    }
}
