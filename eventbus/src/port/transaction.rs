//! Participation in the store's own transaction: effects, inbox and checkpoint commit together or not at all.
//!
//! Invariant: a caller moves a checkpoint under its lease, and the store checks the lease's epoch in that same
//! transaction. So an owner that was paused while a new one took over can commit no write any more.

use std::{any::Any, error::Error, fmt};

use async_trait::async_trait;

use super::{Append, AppendError, Lease, ServerFault, TypeKey, delivery::HandlerError, state::Requirements};
use crate::domain::{
    error::BoxError,
    metadata::EventId,
    name::Name,
    stream::{Position, StreamId},
};

/// A store that lets handlers and projections take part in its transactions.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// The type behind [`Transaction::as_any_mut`].
    fn transaction_type(&self) -> TypeKey;

    /// Returns the fault of the server that `error`, or one of its [sources](crate::support::source_chain), reports;
    /// `None` if the error is the event's own.
    ///
    /// A full disk, a held lock, a conflict of transactions, a shutdown, a broken connection and one whose prepared
    /// statement is outdated are not the fault of the event: the handler or projection runs again without limit. A
    /// statement's time limit, a constraint, a type and all other errors mean that the event cannot be handled as it is.
    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault>;

    /// Runs the statements that create the tables of a projection, in one transaction on the live tables.
    ///
    /// Two calls, also of different processes, never run at once, since one of two concurrent
    /// `CREATE TABLE IF NOT EXISTS` may fail. A store whose rows need no set-up keeps this default, which refuses the
    /// statements.
    ///
    /// # Errors
    /// The store's error; then nothing is changed, unless the connection broke during the commit, or the statements
    /// committed themselves, which they must not. A later call can succeed if [`server_fault`](Self::server_fault) returns a
    /// fault.
    async fn set_up_tables(&self, statements: &str) -> Result<(), BoxError> {
        let _ = statements;
        Err("this store runs no SQL, and its rows need no tables: remove `set_up`".into())
    }

    /// Begins a transaction. The store ends a transaction that takes too long, since other transactions may wait for
    /// it.
    ///
    /// # Errors
    /// The store's error if it cannot begin.
    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError>;

    /// Creates empty copies of a shadow's tables beside the live ones, unless they exist already, and returns the
    /// position up to which they were filled before.
    ///
    /// # Errors
    /// The store's error, for example that a table does not exist.
    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError>;

    /// Begins a transaction in which the names of a shadow's tables refer to the copies. Its checkpoints are the
    /// shadow's.
    ///
    /// # Errors
    /// The store's error if it cannot begin.
    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError>;

    /// Removes the copies, and the position up to which they were filled; no error if there are none.
    ///
    /// # Errors
    /// The store's error if it cannot remove them.
    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError>;
}

/// Copies of a projection's tables, filled while the live ones serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// The name of the copies; also the role of the lease under which a process fills them.
    pub name: Name,
    /// The tables, by the names that the projection's statements use.
    pub tables: Vec<String>,
}

/// An open transaction of a store; the store rolls back one that is dropped.
#[async_trait]
pub trait Transaction: Send {
    /// Returns the store's own transaction, for [`FromTransaction`].
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send);

    /// Returns `true` if it has been open for longer than the store allows: a statement that fails then fails for that
    /// reason.
    fn is_late(&self) -> bool;

    /// Moves the checkpoint named like the lease's role from `from` to `to`. Returns `false` if the lease has passed to
    /// a new owner, or the checkpoint is not at `from`; the caller must drop the transaction then.
    ///
    /// A checkpoint that was never saved is at [`Position::START`].
    ///
    /// # Errors
    /// The store's error if it cannot read the lease, or move the checkpoint.
    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError>;

    /// Records that `handler` handles the event of `stream` with this id. Returns `false` if a transaction with the
    /// same record has committed: the event is handled already. An id is unique within its stream only.
    ///
    /// Waits for a concurrent transaction that records the same.
    ///
    /// # Errors
    /// The store's error if it cannot write the record.
    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError>;

    /// Appends events, which the commit stores.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] if the stream is not at the expected version, here or at the commit; else as for
    /// [`append`](super::AppendEvents::append). The caller must drop the transaction then.
    async fn append(&mut self, append: Append) -> Result<(), AppendError>;

    /// Replaces the rows of the live tables by the rows of the shadow's copies, and returns the position up to which
    /// the copies were filled.
    ///
    /// Reads that position together with the rows, so that no process fills the copies in between. After the commit the
    /// copies are used up: [`make_shadow`](Transactions::make_shadow) makes new ones, even if no process has dropped
    /// them.
    ///
    /// # Errors
    /// The store's error if it cannot replace them.
    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError>;

    /// Returns `true` if statements of this transaction find `table`, and `column` in it if given.
    ///
    /// # Errors
    /// The store's error, for example that `table` cannot be the name of a table.
    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError>;

    /// Returns `true` if `table` exists and has a row. A store that cannot tell this at once, however large the table is,
    /// keeps this default, which returns `false`.
    ///
    /// # Errors
    /// The store's error, for example that its user may not read the table.
    async fn has_rows(&mut self, table: &str) -> Result<bool, BoxError> {
        let _ = table;
        Ok(false)
    }

    /// Deletes the rows of `table` whose `column` is `value`.
    ///
    /// # Errors
    /// The store's error if it cannot delete them.
    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError>;

    /// Commits the transaction.
    ///
    /// # Errors
    /// The store's error; the outcome may be unknown.
    async fn commit(self: Box<Self>) -> Result<(), BoxError>;
}

/// The transaction of the current delivery, if there is one.
pub type TransactionSlot<'d> = Option<&'d mut (dyn Any + Send)>;

/// A parameter taken as `&mut T` from the transaction of store `S`.
///
/// The store is a parameter so that a store crate may implement it for its driver's types:
/// `impl FromTransaction<PgEventStore> for PgConnection`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a store transaction",
    label = "not a store transaction",
    note = "only the connection or transaction type of a store is taken by `&mut`; shared state is `State<T>`"
)]
pub trait FromTransaction<S>: Send {
    /// The store's transaction type.
    type Transaction: Send + 'static;

    /// Borrows the parameter from the transaction.
    fn from_transaction(transaction: &mut Self::Transaction) -> &mut Self;

    #[doc(hidden)]
    fn requires(requirements: &mut Requirements) {
        requirements.transaction::<Self::Transaction>();
    }

    /// Takes the parameter for one call.
    ///
    /// # Errors
    /// [`HandlerError`] if there is no transaction, or one of a different store; `start()` rules both out.
    #[doc(hidden)]
    fn take(slot: TransactionSlot<'_>) -> Result<&mut Self, HandlerError> {
        let wanted = TypeKey::of::<Self::Transaction>();
        slot.and_then(|any| any.downcast_mut()).map(Self::from_transaction).ok_or_else(|| HandlerError::missing(wanted))
    }
}

impl fmt::Debug for dyn Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transactions({})", self.transaction_type().name())
    }
}

impl fmt::Debug for dyn Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transaction")
    }
}
