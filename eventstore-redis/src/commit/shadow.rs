//! The copies of a rebuild, and their swap for live keys.

use std::collections::BTreeSet;

use eventbus::{Name, Position, port::Shadow};
use eventbus_redis_core::{program::AtomicProgram, reply::request};
use redis::{Cmd, FromRedisValue};

use super::tables::{Table, parse_tables, scan_pattern};
use crate::{
    RedisTransactionError,
    inner::StoreInner,
    keys::{self, StoreKeys},
    script::DROP_COPIES,
};

/// Most deliveries or keys that one command removes or scans.
pub(crate) const SHADOW_BATCH_MAX: usize = 1_000;

/// A swap of a rebuild's copies for live keys, planned for the commit.
#[derive(Debug)]
pub(crate) struct ShadowSwap {
    pub(crate) shadow: Name,
    pub(crate) position: Position,
    /// Each copy and the live key that it replaces; the commit removes the key if there is no copy.
    pub(crate) swaps: Vec<(String, String)>,
    /// Live keys that have no copy.
    pub(crate) removed_keys: Vec<String>,
}

impl ShadowSwap {
    /// Adds the step that checks that the copies are still filled up to the same position.
    pub(crate) fn add_check(&self, keys: &StoreKeys, program: &mut AtomicProgram) {
        program.step("filled").key(&keys.shadow(&self.shadow)).arg(self.position.to_string());
    }

    /// Adds the steps that rename the copies, and that remove the rebuild.
    pub(crate) fn add_writes(&self, keys: &StoreKeys, program: &mut AtomicProgram) {
        for (copy, live) in &self.swaps {
            program.swap(copy, live);
        }
        for removed in &self.removed_keys {
            program.step("clear").key(removed);
        }
        program.unlink(&keys.shadow(&self.shadow));
        program.unlink(&keys.shadow_copies(&self.shadow));
    }
}

/// Lists the copies of a rebuild that a commit renames over live keys, and the live keys that it removes.
pub(crate) async fn plan_shadow_swap(inner: &StoreInner, shadow: &Shadow) -> Result<ShadowSwap, RedisTransactionError> {
    let tables = parse_tables(shadow)?;
    let position = load_shadow_position(inner, shadow).await?;
    let copies = list_shadow_copies(inner, shadow).await?;
    let keys = inner.keys();
    let mut replaced: BTreeSet<String> = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for table in tables {
        match table {
            Table::Key(key) => drop(replaced.insert(key.to_owned())),
            Table::Prefix(stem) => {
                replaced.extend(copies.iter().filter(|copy| table.contains(copy)).cloned());
                removed.extend(list_live_keys(inner, stem).await?);
            }
        }
    }
    let swaps: Vec<_> = replaced.iter().map(|key| (keys.shadow_copy(&shadow.name, key), keys.live_key(key))).collect();
    for (_, live) in &swaps {
        removed.remove(live);
    }
    Ok(ShadowSwap { shadow: shadow.name.clone(), position, swaps, removed_keys: removed.into_iter().collect() })
}

/// Returns the position up to which the copies are filled.
pub(crate) async fn load_shadow_position(
    inner: &StoreInner,
    shadow: &Shadow,
) -> Result<Position, RedisTransactionError> {
    let command = request("HGET", (inner.keys().shadow(&shadow.name), "position"));
    let position: Option<u64> = query_for_transaction(inner, &command).await?;
    position.map(Position::new).ok_or_else(|| missing_shadow(shadow))
}

/// Returns the keys of which a rebuild has copies, without the prefix.
pub(crate) async fn list_shadow_copies(
    inner: &StoreInner,
    shadow: &Shadow,
) -> Result<BTreeSet<String>, RedisTransactionError> {
    let key = inner.keys().shadow_copies(&shadow.name);
    scan_all(inner, |cursor| request("SSCAN", (&key, cursor, "COUNT", SHADOW_BATCH_MAX))).await
}

/// Runs a scan from the cursor `0` to its end.
async fn scan_all(
    inner: &StoreInner,
    scan: impl Fn(&str) -> Cmd + Send,
) -> Result<BTreeSet<String>, RedisTransactionError> {
    let (mut found, mut cursor) = (BTreeSet::new(), "0".to_owned());
    loop {
        // a key of another client may not be UTF-8: the projection has not written it
        let (next, page): (String, Vec<Vec<u8>>) = query_for_transaction(inner, &scan(&cursor)).await?;
        found.extend(page.into_iter().filter_map(|name| String::from_utf8(name).ok()));
        cursor = next;
        if cursor == "0" {
            return Ok(found);
        }
    }
}

/// Returns the live keys that begin with `stem`, with the prefix. The projection writes none of them meanwhile: the
/// rebuild has seized its lease, which fences it.
async fn list_live_keys(inner: &StoreInner, stem: &str) -> Result<BTreeSet<String>, RedisTransactionError> {
    let matching = scan_pattern(&inner.keys().live_key(stem));
    let scan = |cursor: &str| request("SCAN", (cursor, "MATCH", &matching, "COUNT", SHADOW_BATCH_MAX));
    let found = scan_all(inner, scan).await?;
    if found.iter().any(|key| keys::is_store_meta(key)) {
        let reason = "the keys of another store begin with it";
        return Err(RedisTransactionError::InvalidKey { key: format!("{stem}*"), reason });
    }
    Ok(found)
}

pub(crate) async fn unlink(inner: &StoreInner, keys: &[String]) -> Result<(), RedisTransactionError> {
    query_for_transaction::<u64>(inner, &request("UNLINK", keys)).await.map(drop)
}

/// Removes copies, or their names, unless a new rebuild has written its note since.
pub(crate) async fn drop_copies(inner: &StoreInner, note: &str, keys: &[String]) -> Result<(), RedisTransactionError> {
    let mut script = DROP_COPIES.key(note);
    for key in keys {
        script.key(key);
    }
    inner.connection().run_idempotent::<u64>(&script).await.map(drop).map_err(RedisTransactionError::unavailable)
}

async fn query_for_transaction<T: FromRedisValue>(
    inner: &StoreInner,
    command: &Cmd,
) -> Result<T, RedisTransactionError> {
    inner.connection().query_idempotent(command).await.map_err(RedisTransactionError::unavailable)
}

pub(crate) fn missing_shadow(shadow: &Shadow) -> RedisTransactionError {
    RedisTransactionError::NoShadow { name: shadow.name.to_string() }
}
