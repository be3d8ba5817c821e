//! Taking part in the store's transactions.

use eventbus::port::FromTransaction;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::store::PgEventStore;

/// A transaction of the store's database; dropped is rolled back.
///
/// Handlers and projections take it as `connection: &mut PgConnection`.
#[derive(Debug)]
pub struct PgTransaction(Transaction<'static, Postgres>);

impl PgTransaction {
    /// Gives the driver's transaction away, to commit it or to roll it back.
    #[must_use]
    pub fn into_inner(self) -> Transaction<'static, Postgres> {
        self.0
    }
}

impl From<Transaction<'static, Postgres>> for PgTransaction {
    fn from(transaction: Transaction<'static, Postgres>) -> Self {
        Self(transaction)
    }
}

impl FromTransaction<PgEventStore> for PgConnection {
    type Transaction = PgTransaction;

    fn from_transaction(transaction: &mut PgTransaction) -> &mut Self {
        &mut transaction.0
    }
}
