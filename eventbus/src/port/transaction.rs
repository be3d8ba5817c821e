//! Taking part in the store's own transaction: effects, inbox and checkpoint commit together or not at all.
//!
//! Keep: whoever moves a checkpoint says under which lease, and the store looks at the lease's epoch in that same
//! transaction. So an owner that was paused while another one took over can write nothing any more.

use std::{any::Any, error::Error, fmt, time::Duration};

use async_trait::async_trait;

use super::{HandlerError, Lease, Requirements, ServerFault, TypeKey};
use crate::domain::{error::BoxError, metadata::EventId, name::Name, stream::Position};

/// A store that lets handlers and projections take part in its transactions.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// The type behind [`Transaction::as_any_mut`].
    fn transaction_type(&self) -> TypeKey;

    /// Returns the fault of the server that `error`, or one of its [sources](super::source_chain), reports; `None` if
    /// the error is the event's own.
    ///
    /// A full disk, a lock that is held, a conflict of transactions, a shutdown and a broken connection say nothing about
    /// the event that is handled: the handler or projection is run again without limit. A time limit of a statement, a
    /// constraint, a type and everything else say that the event cannot be handled as it is.
    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault>;

    /// Begins a transaction. One that takes too long is ended by the store, since others may wait for it.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError>;

    /// Makes empty copies of a shadow's tables beside the live ones, unless they are there already, and returns how far
    /// they were filled before.
    ///
    /// # Errors
    /// Whatever the store says when it cannot, for example that a table does not exist.
    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError>;

    /// Begins a transaction in which the names of a shadow's tables mean the copies. Its checkpoints are the shadow's.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError>;

    /// Removes the copies and how far they were filled; no error if there are none.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError>;

    /// Forgets deliveries that were handled so long ago, see [`Transaction::is_first`], and returns how many.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError>;
}

/// Copies of a projection's tables, filled while the live ones serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// Whose; also the role of the lease under which it is filled.
    pub name: Name,
    /// The tables, by the names that the projection's statements call them.
    pub tables: Vec<String>,
}

/// An open transaction of a store; dropped is rolled back.
#[async_trait]
pub trait Transaction: Send {
    /// The store's own transaction type, for [`FromTransaction`].
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send);

    /// Returns `true` if it is open for longer than the store allows: what fails in it then fails for that reason.
    fn is_late(&self) -> bool;

    /// Moves the checkpoint named like the lease's role from `from` to `to`. False: the lease has passed to somebody else,
    /// or the checkpoint is somewhere else; the transaction is to be dropped then.
    ///
    /// A checkpoint that was never saved is at [`Position::START`].
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError>;

    /// Notes that `handler` handles the event. False: that was committed before, and there is nothing left to do.
    ///
    /// Waits for another transaction that notes the same.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn is_first(&mut self, handler: &Name, event: EventId) -> Result<bool, BoxError>;

    /// Replaces the rows of the live tables by those of the shadow's copies, and returns how far these were filled.
    ///
    /// That is read together with the rows: whoever fills the copies does not come in between. Once it is committed the
    /// copies have served: [`make_shadow`](Transactions::make_shadow) makes new ones, also if nobody dropped them.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError>;

    /// Whether statements of this transaction find `table`, and `column` in it if one is asked for.
    ///
    /// # Errors
    /// Whatever the store says when it cannot, for example that a table cannot be called so.
    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError>;

    /// Deletes the rows of `table` whose `column` is `value`.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError>;

    /// Commits.
    ///
    /// # Errors
    /// Whatever the store says; the outcome may be unknown.
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
    /// [`HandlerError`] if there is no transaction, or one of another store; `start()` rules both out.
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
