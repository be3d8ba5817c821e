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
    transaction::{RedisTransaction, RedisTransactionError, Replacing, Table, pattern, tables},
};
use crate::{
    fault,
    script::store::{FORGET, MAKE_SHADOW},
};

/// How many deliveries are forgotten, or keys removed or looked at, in one step.
const TOGETHER: usize = 1_000;

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
        tables(shadow)?;
        let keys = self.keys();
        let mut make = MAKE_SHADOW.prepare_invoke();
        // keys of users have no limit but their length, so the lengths tell them apart
        let text: String = shadow.tables.iter().map(|table| format!("{}:{table} ", table.len())).collect();
        make.key(keys.shadow(&shadow.name)).key(keys.copies(&shadow.name)).arg(text);
        for _ in 0..2 {
            let position: Option<u64> = self.link().rerun(&make).await.map_err(RedisTransactionError::unavailable)?;
            if let Some(position) = position {
                return Ok(Position::new(position));
            }
            self.drop_shadow(shadow).await?;
        }
        Err(no_shadow(shadow).into())
    }

    async fn begin_in(&self, shadow: &Shadow) -> Result<Box<dyn Transaction>, BoxError> {
        tables(shadow)?;
        self.filled(shadow).await?;
        Ok(Box::new(RedisTransaction::new(self, Some(shadow.clone()))))
    }

    async fn drop_shadow(&self, shadow: &Shadow) -> Result<(), BoxError> {
        let keys = self.keys();
        // first the note, without which nobody fills them, and last their names, without which nobody finds them
        self.unlink(&[keys.shadow(&shadow.name)]).await?;
        let copies: Vec<_> = self.copies(shadow).await?.iter().map(|key| keys.copy(&shadow.name, key)).collect();
        for together in copies.chunks(TOGETHER) {
            self.unlink(together).await?;
        }
        Ok(self.unlink(&[keys.copies(&shadow.name)]).await?)
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let mut all = 0;
        loop {
            let mut forget = FORGET.prepare_invoke();
            forget.key(self.keys().deliveries()).arg(millis(older_than)).arg(TOGETHER);
            // once: a second one would not count what the first has forgotten
            let forgotten: u64 = self.link().run(&forget).await.map_err(RedisTransactionError::unavailable)?;
            all += forgotten;
            if forgotten < TOGETHER as u64 {
                return Ok(all);
            }
        }
    }
}

impl RedisEventStore {
    /// What a commit has to do so that the copies of a rebuild take the place of the live keys.
    pub(super) async fn replacing(&self, shadow: &Shadow) -> Result<Replacing, RedisTransactionError> {
        let tables = tables(shadow)?;
        let position = self.filled(shadow).await?;
        let copies = self.copies(shadow).await?;
        let keys = self.keys();
        let mut replaced: BTreeSet<String> = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for table in tables {
            match table {
                Table::Key(key) => drop(replaced.insert(key.to_owned())),
                Table::Stem(stem) => {
                    replaced.extend(copies.iter().filter(|copy| table.contains(copy)).cloned());
                    gone.extend(self.live_keys(stem).await?);
                }
            }
        }
        let swaps: Vec<_> = replaced.iter().map(|key| (keys.copy(&shadow.name, key), keys.live(key))).collect();
        for (_, live) in &swaps {
            gone.remove(live);
        }
        Ok(Replacing { shadow: shadow.name.clone(), position, swaps, gone: gone.into_iter().collect() })
    }

    /// How far copies are filled.
    async fn filled(&self, shadow: &Shadow) -> Result<Position, RedisTransactionError> {
        let mut ask = redis::cmd("HGET");
        ask.arg(self.keys().shadow(&shadow.name)).arg("position");
        let position: Option<u64> = self.asked_once_more(&ask).await?;
        position.map(Position::new).ok_or_else(|| no_shadow(shadow))
    }

    /// The keys of which a rebuild has copies, as the transaction calls them.
    async fn copies(&self, shadow: &Shadow) -> Result<BTreeSet<String>, RedisTransactionError> {
        let mut copies = BTreeSet::new();
        let key = self.keys().copies(&shadow.name);
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(TOGETHER);
            let (next, some): (String, Vec<String>) = self.asked_once_more(&scan).await?;
            copies.extend(some);
            cursor = next;
            if cursor == "0" {
                return Ok(copies);
            }
        }
    }

    /// The live keys that begin so, with the prefix. Nobody makes or removes one meanwhile: who writes them is fenced.
    async fn live_keys(&self, stem: &str) -> Result<BTreeSet<String>, RedisTransactionError> {
        let matching = pattern(&self.keys().live(stem));
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&matching).arg("COUNT").arg(TOGETHER);
            let (next, some): (String, Vec<String>) = self.asked_once_more(&scan).await?;
            if some.iter().any(|key| keys::is_of_a_store(key)) {
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
        self.asked_once_more::<u64>(&unlink).await.map(drop)
    }

    async fn asked_once_more<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisTransactionError> {
        self.link().query(command).await.map_err(RedisTransactionError::unavailable)
    }
}

fn no_shadow(shadow: &Shadow) -> RedisTransactionError {
    RedisTransactionError::NoShadow { name: shadow.name.to_string() }
}
