//! Taking part in the store's own transaction.
//!
//! Declared and checked at start now; handlers and projections are not yet run inside transactions.

use std::{any::Any, fmt};

use async_trait::async_trait;

use super::{HandlerError, Requirements, TypeKey};
use crate::domain::{error::BoxError, name::Name, stream::Position};

/// A store that lets handlers and projections take part in its transactions.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// The type behind [`Transaction::as_any_mut`].
    fn transaction_type(&self) -> TypeKey;

    /// Begins a transaction.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError>;
}

/// An open transaction of a store; dropped is rolled back.
#[async_trait]
pub trait Transaction: Send {
    /// The store's own transaction type, for [`FromTransaction`].
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send);

    /// Moves a checkpoint within the transaction.
    ///
    /// # Errors
    /// Whatever the store says when it cannot.
    async fn save_checkpoint(&mut self, name: &Name, position: Position) -> Result<(), BoxError>;

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
