//! Transactions of the store, on the live keys or on the copies of a rebuild.

use std::{collections::BTreeSet, error::Error, time::Duration};

use async_trait::async_trait;
use eventbus::{
    BoxError, Position,
    port::{ServerFault, Shadow, Transaction, Transactions, TypeKey},
};
use redis::FromRedisValue;

use super::{
    RedisEventStore, keys,
    lease::millis,
    transaction::{RedisTransaction, RedisTransactionError, ShadowSwap, Table, parse_tables, scan_pattern},
};
use crate::{
    fault,
    script::store::{FORGET_DELIVERIES, MAKE_SHADOW},
};

/// How many deliveries are forgotten, or keys removed or looked at, in one step.
const SHADOW_BATCH_MAX: usize = 1_000;

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
        let keys = self.keys();
        let mut make = MAKE_SHADOW.prepare_invoke();
        // keys of users have no limit but their length, so the lengths tell them apart
        let text: String = shadow.tables.iter().map(|table| format!("{}:{table} ", table.len())).collect();
        make.key(keys.shadow(&shadow.name)).key(keys.shadow_copies(&shadow.name)).arg(text);
        for _ in 0..2 {
            let position: Option<u64> =
                self.connection().run_idempotent(&make).await.map_err(RedisTransactionError::unavailable)?;
            if let Some(position) = position {
                return Ok(Position::new(position));
            }
            self.drop_shadow(shadow).await?;
        }
        Err(missing_shadow(shadow).into())
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        parse_tables(shadow)?;
        self.load_shadow_position(shadow).await?;
        Ok(Box::new(RedisTransaction::new(self, Some(shadow.clone()))))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let keys = self.keys();
        // first the note, without which nobody fills them, and last their names, without which nobody finds them
        self.unlink(&[keys.shadow(&shadow.name)]).await?;
        let copies: Vec<_> =
            self.list_shadow_copies(shadow).await?.iter().map(|key| keys.shadow_copy(&shadow.name, key)).collect();
        for together in copies.chunks(SHADOW_BATCH_MAX) {
            self.unlink(together).await?;
        }
        Ok(self.unlink(&[keys.shadow_copies(&shadow.name)]).await?)
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let mut all = 0;
        loop {
            let mut forget = FORGET_DELIVERIES.prepare_invoke();
            forget.key(self.keys().deliveries()).arg(millis(older_than)).arg(SHADOW_BATCH_MAX);
            // once: a second one would not count what the first has forgotten
            let forgotten: u64 = self.connection().run(&forget).await.map_err(RedisTransactionError::unavailable)?;
            all += forgotten;
            if forgotten < SHADOW_BATCH_MAX as u64 {
                return Ok(all);
            }
        }
    }
}

impl RedisEventStore {
    /// What a commit has to do so that the copies of a rebuild take the place of the live keys.
    pub(super) async fn plan_shadow_swap(&self, shadow: &Shadow) -> Result<ShadowSwap, RedisTransactionError> {
        let tables = parse_tables(shadow)?;
        let position = self.load_shadow_position(shadow).await?;
        let copies = self.list_shadow_copies(shadow).await?;
        let keys = self.keys();
        let mut replaced: BTreeSet<String> = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for table in tables {
            match table {
                Table::Key(key) => drop(replaced.insert(key.to_owned())),
                Table::Prefix(stem) => {
                    replaced.extend(copies.iter().filter(|copy| table.contains(copy)).cloned());
                    gone.extend(self.list_live_keys(stem).await?);
                }
            }
        }
        let swaps: Vec<_> =
            replaced.iter().map(|key| (keys.shadow_copy(&shadow.name, key), keys.live_key(key))).collect();
        for (_, live) in &swaps {
            gone.remove(live);
        }
        Ok(ShadowSwap { shadow: shadow.name.clone(), position, swaps, removed_keys: gone.into_iter().collect() })
    }

    /// How far copies are filled.
    async fn load_shadow_position(&self, shadow: &Shadow) -> Result<Position, RedisTransactionError> {
        let mut ask = redis::cmd("HGET");
        ask.arg(self.keys().shadow(&shadow.name)).arg("position");
        let position: Option<u64> = self.query_for_transaction(&ask).await?;
        position.map(Position::new).ok_or_else(|| missing_shadow(shadow))
    }

    /// The keys of which a rebuild has copies, as the transaction calls them.
    async fn list_shadow_copies(&self, shadow: &Shadow) -> Result<BTreeSet<String>, RedisTransactionError> {
        let mut copies = BTreeSet::new();
        let key = self.keys().shadow_copies(&shadow.name);
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(SHADOW_BATCH_MAX);
            let (next, some): (String, Vec<String>) = self.query_for_transaction(&scan).await?;
            copies.extend(some);
            cursor = next;
            if cursor == "0" {
                return Ok(copies);
            }
        }
    }

    /// The live keys that begin so, with the prefix. Nobody makes or removes one meanwhile: who writes them is fenced.
    async fn list_live_keys(&self, stem: &str) -> Result<BTreeSet<String>, RedisTransactionError> {
        let matching = scan_pattern(&self.keys().live_key(stem));
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&matching).arg("COUNT").arg(SHADOW_BATCH_MAX);
            let (next, some): (String, Vec<String>) = self.query_for_transaction(&scan).await?;
            if some.iter().any(|key| keys::is_store_meta(key)) {
                let reason = "the keys of another store begin like that";
                return Err(RedisTransactionError::InvalidKey { key: format!("{stem}*"), reason });
            }
            found.extend(some);
            cursor = next;
            if cursor == "0" {
                return Ok(found);
            }
        }
    }

    async fn unlink(&self, keys: &[String]) -> Result<(), RedisTransactionError> {
        let mut unlink = redis::cmd("UNLINK");
        unlink.arg(keys);
        self.query_for_transaction::<u64>(&unlink).await.map(drop)
    }

    async fn query_for_transaction<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisTransactionError> {
        self.connection().query(command).await.map_err(RedisTransactionError::unavailable)
    }
}

fn missing_shadow(shadow: &Shadow) -> RedisTransactionError {
    RedisTransactionError::NoShadow { name: shadow.name.to_string() }
}
