//! Why something could not be done in a transaction.

use std::time::Duration;

use eventbus::BoxError;

/// Why something could not be done in a transaction. Nothing of it is committed then, unless it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTransactionError {
    /// A key cannot be called so here.
    #[error("`{key}` cannot be a key of a transaction here: {reason}")]
    InvalidKey {
        /// The key, without the store's prefix.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A rebuild fills copies of the tables only; a key beside them would be written by it and by the live projection.
    #[error("key `{key}` is in none of the tables that `{shadow}` fills: name it in `tables(..)`")]
    NotInTables {
        /// The key, without the store's prefix.
        key: String,
        /// What fills the copies.
        shadow: String,
    },
    /// The transaction has written the key in a way whose outcome only the server knows: read it before.
    #[error("key `{key}` is written in this transaction, what will be there is not known before the commit")]
    ReadAfterBlindWrite {
        /// The key, without the store's prefix.
        key: String,
    },
    /// The command is not one that writes to the one key right behind its name.
    #[error("`{command}` cannot be an effect: {reason}")]
    InvalidCommand {
        /// Its name.
        command: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server refused an effect, for example because the key is of another kind; all others are undone.
    #[error("`{command}` on key `{key}` was refused, nothing is committed")]
    EffectRefused {
        /// The command.
        command: String,
        /// The key, as the server knows it.
        key: String,
        /// What the server said.
        source: BoxError,
    },
    /// What the transaction has read, or a stream that it appends to, was changed by somebody else before it committed:
    /// begin anew.
    #[error("key `{key}` was changed by somebody else, nothing is committed")]
    Changed {
        /// The key, as the server knows it.
        key: String,
    },
    /// The role has passed to somebody else, or somebody else has moved the checkpoint or noted the delivery.
    #[error("somebody else has the role, or did the same before: nothing is committed")]
    Superseded,
    /// It took too long, and others may have gone on.
    #[error("the transaction took longer than {limit:?}, the `transaction_timeout`: nothing is committed")]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
    /// A rebuild cannot do this in its copies.
    #[error("`{what}` is not for the copies of a rebuild")]
    InShadow {
        /// What was to be done.
        what: &'static str,
    },
    /// Events are appended in transactions of their own store.
    #[error("the transaction belongs to another store")]
    OtherStore,
    /// There are no copies of this name.
    #[error("there is no rebuild `{name}`")]
    NoShadow {
        /// The name.
        name: String,
    },
    /// The rows of one aggregate cannot be told from others.
    #[error(
        "rows of `{table}` are not found by `{column}`: write `key = \"key\"` for tables such as `order:*`, of which \
         each aggregate has a key, and `key = \"field\"` for a hash with a field per aggregate"
    )]
    NoRows {
        /// The table.
        table: String,
        /// What they were to be found by.
        column: String,
    },
    /// The server could not be reached, or can do nothing now; nothing is committed.
    #[error("the Redis of the store is unavailable")]
    Unavailable(#[source] BoxError),
    /// The connection broke after sending: it may be committed or not.
    #[error("the connection broke: the transaction may be committed or not")]
    OutcomeUnknown(#[source] BoxError),
}

impl RedisTransactionError {
    pub(crate) fn unavailable(error: crate::connection::CommandError) -> Self {
        Self::Unavailable(crate::connection::boxed(error))
    }
}
