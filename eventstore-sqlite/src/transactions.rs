//! Transactions of the store, on its own tables or on the copies of a shadow.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{ServerFault, Shadow, Transaction, Transactions, TypeKey},
};
use rusqlite::Connection;

use crate::{
    blocking::blocking,
    error::{self, SqliteTransactionError},
    query::execute,
    shadow_databases::{self, ShadowRow, check_tables, missing_shadow},
    store::SqliteEventStore,
    store_inner::StoreInner,
    transaction::SqliteTransaction,
    writer::{HeldConnection, WritePermit},
};

#[async_trait]
impl Transactions for SqliteEventStore {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<SqliteTransaction>()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        error::server_fault(error)
    }

    /// The transaction holds the lock of the file's only writer, so other processes wait with their set-up.
    async fn set_up_tables(&self, statements: &str) -> Result<(), BoxError> {
        self.begin_transaction().await?.set_up(statements).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(Box::new(self.begin_transaction().await?))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        check_tables(shadow)?;
        if find_shadow(self.inner(), &shadow.name).await?.is_some_and(|found| found.has_replaced_live) {
            self.drop_shadow(shadow).await?;
        }
        // a second time if the tables have changed since the copies were made
        for _ in 0..2 {
            let file = register_shadow(self.inner(), &shadow.name).await?;
            let (copies, wanted) = (Arc::clone(self.inner().shadow_databases()), shadow.clone());
            let live = acquire_if_in_memory(self.inner()).await?;
            let made = blocking(move || {
                let made = copies.open_or_create(&wanted.name, file, &wanted.tables);
                drop(live);
                made
            });
            if let Some(position) = made.await?? {
                return Ok(position);
            }
            self.drop_shadow(shadow).await?;
        }
        Err(missing_shadow(&shadow.name).into())
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        check_tables(shadow)?;
        let file = match self.inner().shadow_databases().idle_file(&shadow.name) {
            Some(file) => file,
            None => find_shadow(self.inner(), &shadow.name).await?.ok_or_else(|| missing_shadow(&shadow.name))?.file,
        };
        let live_permit = acquire_if_in_memory(self.inner()).await?.map(Box::new);
        let (copies, name) = (Arc::clone(self.inner().shadow_databases()), shadow.name.clone());
        // takes the permit along, so that no append runs meanwhile, also if this future is dropped
        let begin = move || {
            let connection = Box::new(copies.begin(&name, file)?);
            Ok::<_, SqliteTransactionError>(HeldConnection::Shadow { connection, live_permit })
        };
        Ok(Box::new(SqliteTransaction::new(Arc::clone(self.inner()), blocking(begin).await??)))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let Some(ShadowRow { file, .. }) = find_shadow(self.inner(), &shadow.name).await? else {
            return Ok(());
        };
        let (copies, name, removed) = (Arc::clone(self.inner().shadow_databases()), shadow.name.clone(), file.clone());
        blocking(move || copies.remove(&name, &removed)).await??;
        // after the file, so that no file remains without a row that names it
        let name = shadow.name.clone();
        let forget = move |connection: &Connection| {
            execute(connection, include_str!("sql/forget_shadow.sql"), (name.as_str(), file.as_str()))
        };
        self.writer().write(forget).await.map(drop)
    }
}

/// Acquires the write connection of a store in memory, so that no append runs meanwhile: memory has no snapshots.
async fn acquire_if_in_memory(store: &StoreInner) -> Result<Option<WritePermit>, BoxError> {
    match store.location().is_memory() {
        true => store.writer().acquire_write_permit().await.map(Some),
        false => Ok(None),
    }
}

/// Returns the file of a shadow; registers a new one if none is registered, or the file is gone.
async fn register_shadow(store: &StoreInner, shadow: &Name) -> Result<String, BoxError> {
    let (copies, name) = (Arc::clone(store.shadow_databases()), shadow.clone());
    let note = move |connection: &Connection| {
        let found = shadow_databases::find_row(connection, &name)?;
        if let Some(found) = found.filter(|found| copies.has_file(&found.file)) {
            return Ok(found.file);
        }
        let fresh = copies.new_file_name(&name);
        execute(connection, include_str!("sql/save_shadow.sql"), (name.as_str(), fresh.as_str()))?;
        Ok(fresh)
    };
    store.writer().write(note).await
}

async fn find_shadow(store: &StoreInner, shadow: &Name) -> Result<Option<ShadowRow>, BoxError> {
    let shadow = shadow.clone();
    Ok(store.readers().read(move |connection| Ok(shadow_databases::find_row(connection, &shadow)?)).await?)
}
