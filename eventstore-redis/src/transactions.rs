//! Transactions on the live keys or on a rebuild's copies, and the life of these copies.

use std::error::Error;

use async_trait::async_trait;
use eventbus::{
    BoxError, Position,
    port::{FromTransaction, ServerFault, Shadow, Transaction, Transactions, TypeKey},
};

use crate::{
    RedisEventStore, RedisTransaction, RedisTransactionError,
    commit::{
        SHADOW_BATCH_MAX, drop_copies, list_shadow_copies, load_shadow_position, missing_shadow, parse_tables, unlink,
    },
    fault,
    script::MAKE_SHADOW,
};

#[async_trait]
impl Transactions for RedisEventStore {
    fn transaction_type(&self) -> TypeKey {
        TypeKey::of::<RedisTransaction>()
    }

    fn server_fault(&self, error: &(dyn Error + 'static)) -> Option<ServerFault> {
        fault::server_fault(error)
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, BoxError> {
        Ok(Box::new(self.begin_transaction()))
    }

    async fn make_shadow(&self, shadow: &Shadow) -> Result<Position, BoxError> {
        parse_tables(shadow)?;
        let keys = self.inner().keys();
        let mut make = MAKE_SHADOW.prepare_invoke();
        // a user's key may hold any character: the lengths keep different lists distinct
        let text: String = shadow.tables.iter().map(|table| format!("{}:{table} ", table.len())).collect();
        make.key(keys.shadow(&shadow.name)).key(keys.shadow_copies(&shadow.name)).arg(text);
        for _ in 0..2 {
            let position: Option<u64> =
                self.inner().connection().run_idempotent(&make).await.map_err(RedisTransactionError::unavailable)?;
            if let Some(position) = position {
                return Ok(Position::new(position));
            }
            // copies of other tables, or of a former rebuild
            self.drop_shadow(shadow).await?;
        }
        Err(missing_shadow(shadow).into())
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        parse_tables(shadow)?;
        load_shadow_position(self.inner(), shadow).await?;
        Ok(Box::new(RedisTransaction::new(self.inner(), Some(shadow.clone()))))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let keys = self.inner().keys();
        let note = keys.shadow(&shadow.name);
        // the note first: without it no transaction fills copies. The names last: a retry finds the copies by them
        unlink(self.inner(), std::slice::from_ref(&note)).await?;
        let copies: Vec<_> = list_shadow_copies(self.inner(), shadow)
            .await?
            .iter()
            .map(|key| keys.shadow_copy(&shadow.name, key))
            .collect();
        for together in copies.chunks(SHADOW_BATCH_MAX) {
            drop_copies(self.inner(), &note, together).await?;
        }
        Ok(drop_copies(self.inner(), &note, &[keys.shadow_copies(&shadow.name)]).await?)
    }
}

impl FromTransaction<RedisEventStore> for RedisTransaction {
    type Transaction = Self;

    fn from_transaction(transaction: &mut Self) -> &mut Self {
        transaction
    }
}

#[cfg(test)]
mod tests {
    use eventbus::{
        Name,
        port::{Shadow, Transactions as _},
    };
    use redis::cmd;

    use crate::{
        RedisEventStore, RedisEventStoreConfig,
        commit::{drop_copies, unlink},
    };

    /// The server may run a removal after the client has sent it again over another connection.
    #[tokio::test]
    async fn a_late_removal_leaves_the_copies_of_the_next_rebuild() {
        let config = RedisEventStoreConfig {
            redis_url: eventbus_test::redis_url().into(),
            key_prefix: eventbus_test::unique_name("store"),
            ..Default::default()
        };
        let store = RedisEventStore::connect(config).await.unwrap();
        let shadow = Shadow { name: Name::from_static("order-stats"), tables: vec!["stats:orders".into()] };
        let keys = store.inner().keys();
        let (note, copy) = (keys.shadow(&shadow.name), keys.shadow_copy(&shadow.name, "stats:orders"));
        store.make_shadow(&shadow).await.unwrap();
        let connection = store.inner().connection();
        connection.query::<u64>(cmd("HSET").arg((&copy, "n", "1"))).await.unwrap();
        let exists = async || connection.query::<bool>(cmd("EXISTS").arg(&copy)).await.unwrap();
        let copies = [copy.clone()];
        drop_copies(store.inner(), &note, &copies).await.unwrap();
        assert!(exists().await, "a rebuild has its note");
        unlink(store.inner(), std::slice::from_ref(&note)).await.unwrap();
        drop_copies(store.inner(), &note, &copies).await.unwrap();
        assert!(!exists().await, "no rebuild has one");
    }
}
