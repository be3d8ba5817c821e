//! Transactions on the live keys or on a rebuild's copies, and the life of these copies.

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
    script::store::{FORGET_DELIVERIES, MAKE_SHADOW},
    store::fault,
};

/// Most deliveries or keys that one command removes or scans.
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
        // a user's key may hold any character: the lengths tell lists apart
        let text: String = shadow.tables.iter().map(|table| format!("{}:{table} ", table.len())).collect();
        make.key(keys.shadow(&shadow.name)).key(keys.shadow_copies(&shadow.name)).arg(text);
        for _ in 0..2 {
            let position: Option<u64> =
                self.connection().run_idempotent(&make).await.map_err(RedisTransactionError::unavailable)?;
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
        self.load_shadow_position(shadow).await?;
        Ok(Box::new(RedisTransaction::new(self, Some(shadow.clone()))))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let keys = self.keys();
        // first the note, without which no transaction fills copies; last the names, by which a retry finds copies
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
            let mut script = FORGET_DELIVERIES.prepare_invoke();
            script.key(self.keys().deliveries()).arg(millis(older_than)).arg(SHADOW_BATCH_MAX);
            // never sent twice: a second run would not count what the first removed
            let forgotten: u64 = self.connection().run(&script).await.map_err(RedisTransactionError::unavailable)?;
            all += forgotten;
            if forgotten < SHADOW_BATCH_MAX as u64 {
                return Ok(all);
            }
        }
    }
}

impl RedisEventStore {
    /// Lists the copies of a rebuild that a commit renames over live keys, and the live keys that it removes.
    pub(super) async fn plan_shadow_swap(&self, shadow: &Shadow) -> Result<ShadowSwap, RedisTransactionError> {
        let tables = parse_tables(shadow)?;
        let position = self.load_shadow_position(shadow).await?;
        let copies = self.list_shadow_copies(shadow).await?;
        let keys = self.keys();
        let mut replaced: BTreeSet<String> = BTreeSet::new();
        let mut removed = BTreeSet::new();
        for table in tables {
            match table {
                Table::Key(key) => drop(replaced.insert(key.to_owned())),
                Table::Prefix(stem) => {
                    replaced.extend(copies.iter().filter(|copy| table.contains(copy)).cloned());
                    removed.extend(self.list_live_keys(stem).await?);
                }
            }
        }
        let swaps: Vec<_> =
            replaced.iter().map(|key| (keys.shadow_copy(&shadow.name, key), keys.live_key(key))).collect();
        for (_, live) in &swaps {
            removed.remove(live);
        }
        Ok(ShadowSwap { shadow: shadow.name.clone(), position, swaps, removed_keys: removed.into_iter().collect() })
    }

    /// Returns the position up to which the copies are filled.
    async fn load_shadow_position(&self, shadow: &Shadow) -> Result<Position, RedisTransactionError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys().shadow(&shadow.name)).arg("position");
        let position: Option<u64> = self.query_for_transaction(&command).await?;
        position.map(Position::new).ok_or_else(|| missing_shadow(shadow))
    }

    /// Returns the keys of which a rebuild has copies, without the prefix.
    async fn list_shadow_copies(&self, shadow: &Shadow) -> Result<BTreeSet<String>, RedisTransactionError> {
        let mut copies = BTreeSet::new();
        let key = self.keys().shadow_copies(&shadow.name);
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(SHADOW_BATCH_MAX);
            let (next, page): (String, Vec<String>) = self.query_for_transaction(&scan).await?;
            copies.extend(page);
            cursor = next;
            if cursor == "0" {
                return Ok(copies);
            }
        }
    }

    /// Returns the live keys that begin with `stem`, with the prefix. The projection writes none of them meanwhile: the
    /// rebuild has seized its lease, which fences it.
    async fn list_live_keys(&self, stem: &str) -> Result<BTreeSet<String>, RedisTransactionError> {
        let matching = scan_pattern(&self.keys().live_key(stem));
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&matching).arg("COUNT").arg(SHADOW_BATCH_MAX);
            let (next, page): (String, Vec<String>) = self.query_for_transaction(&scan).await?;
            if page.iter().any(|key| keys::is_store_meta(key)) {
                let reason = "the keys of another store begin with it";
                return Err(RedisTransactionError::InvalidKey { key: format!("{stem}*"), reason });
            }
            found.extend(page);
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
