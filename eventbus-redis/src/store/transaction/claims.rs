//! What a transaction keeps others from doing, until it ends or its time is up.
//!
//! Keep: a delivery is noted, and a checkpoint moved, only by who still has its claim when it commits, which the script
//! looks at. A claim that ended by itself, or was let go, is nobody's.

use std::time::Duration;

use redis::ScriptInvocation;
use tokio::time::Instant;

use super::RedisTransactionError;
use crate::{
    script::store::LET_GO,
    store::{RedisEventStore, lease::millis},
};

/// When a claim of somebody else is looked at again.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// When a server that is away is told again to let a claim go.
const LET_GO_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Claims {
    store: RedisEventStore,
    /// Tells this transaction from others.
    token: String,
    keys: Vec<String>,
}

impl Claims {
    pub(super) fn new(store: RedisEventStore) -> Self {
        Self { store, token: uuid::Uuid::now_v7().simple().to_string(), keys: Vec::new() }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// How long a claim holds.
    pub(super) fn ms(&self) -> u64 {
        millis(self.store.config().transaction_timeout).max(1)
    }

    /// Runs a script that claims `key`, as soon as nobody else has it. False: there is nothing to claim any more.
    pub(super) async fn take(
        &mut self,
        key: String,
        script: &ScriptInvocation<'_>,
    ) -> Result<bool, RedisTransactionError> {
        // before it is sent: if this is given up meanwhile, it is let go
        if !self.keys.contains(&key) {
            self.keys.push(key.clone());
        }
        let mut pause = FIRST_LOOK;
        loop {
            let reply: String = self.store.link().rerun(script).await.map_err(RedisTransactionError::unavailable)?;
            match reply.as_str() {
                "ok" => return Ok(true),
                "busy" => {}
                _ => {
                    self.keys.retain(|known| *known != key);
                    return Ok(false);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Nothing is claimed any more.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        // without a runtime they end by themselves
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, token, keys) =
            (self.store.clone(), std::mem::take(&mut self.token), std::mem::take(&mut self.keys));
        let end = Instant::now() + store.config().transaction_timeout;
        runtime.spawn(async move {
            let mut script = LET_GO.prepare_invoke();
            script.key(keys).arg(token);
            // a server that is away has them still when it is back
            while let Err(error) = store.link().rerun::<()>(&script).await {
                if Instant::now() >= end {
                    tracing::debug!(%error, "claims of a transaction have ended by themselves");
                    return;
                }
                tokio::time::sleep(LET_GO_AGAIN).await;
            }
        });
    }
}
