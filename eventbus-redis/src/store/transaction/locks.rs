//! What a transaction keeps others from doing, until it ends, its process dies, or its time is up.
//!
//! Keep: a claim only saves work that would be done for nothing. What is done twice is refused by the commit, which
//! compares epoch, checkpoint and notes. So a claim is short, and renewed as long as the transaction lives.
//!
//! Real time, not the given clock: claims, by the clock of Redis.

use std::time::Duration;

use redis::ScriptInvocation;
use tokio::{task::AbortHandle, time::Instant};

use super::RedisTransactionError;
use crate::{
    script::store::{RELEASE_LOCKS, RENEW_LOCKS},
    store::{RedisEventStore, lease::millis},
};

/// When a claim of somebody else is looked at again.
const LOCK_POLL_INTERVAL_FIRST: Duration = Duration::from_millis(2);
const LOCK_POLL_INTERVAL_MAX: Duration = Duration::from_millis(50);

/// How long others wait for a process that died.
const LOCK_TTL_MAX: Duration = Duration::from_secs(1);
/// How many times a claim is renewed within that.
const LOCK_RENEWALS_PER_TTL: u32 = 4;

#[derive(Debug)]
pub(super) struct TransactionLocks {
    store: RedisEventStore,
    /// Tells this transaction from others.
    token: String,
    keys: Vec<String>,
    /// When the first was asked for.
    first_locked_at: Option<Instant>,
    renewal: Option<AbortHandle>,
}

impl TransactionLocks {
    pub(super) fn new(store: RedisEventStore) -> Self {
        let token = store.config().clock.new_id().simple().to_string();
        Self { store, token, keys: Vec::new(), first_locked_at: None, renewal: None }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// How long a claim holds that is not renewed.
    pub(super) fn ttl_ms(&self) -> u64 {
        millis(self.ttl()).max(1)
    }

    fn ttl(&self) -> Duration {
        LOCK_TTL_MAX.min(self.store.config().transaction_timeout)
    }

    /// Whether others were told that they wait no longer than this.
    pub(super) fn is_timed_out(&self) -> bool {
        self.first_locked_at.is_some_and(|since| since.elapsed() > self.store.config().transaction_timeout)
    }

    /// Runs a script that claims `key`, as soon as nobody else has it. False: there is nothing to claim any more.
    pub(super) async fn acquire(
        &mut self,
        key: String,
        script: &ScriptInvocation<'_>,
    ) -> Result<bool, RedisTransactionError> {
        // before it is sent: if this is given up meanwhile, it is let go
        if !self.keys.contains(&key) {
            self.keys.push(key.clone());
        }
        self.first_locked_at.get_or_insert_with(Instant::now);
        let mut pause = LOCK_POLL_INTERVAL_FIRST;
        loop {
            let reply: String =
                self.store.connection().run_idempotent(script).await.map_err(RedisTransactionError::unavailable)?;
            match reply.as_str() {
                "ok" => {
                    self.start_renewal();
                    return Ok(true);
                }
                "busy" => {}
                _ => {
                    self.keys.retain(|known| *known != key);
                    return Ok(false);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOCK_POLL_INTERVAL_MAX);
        }
    }

    /// Renews all claims as long as this lives, up to the time that a transaction may take.
    fn start_renewal(&mut self) {
        let (store, token, keys, pause) =
            (self.store.clone(), self.token.clone(), self.keys.clone(), self.ttl() / LOCK_RENEWALS_PER_TTL);
        let end = self.first_locked_at.unwrap_or_else(Instant::now) + store.config().transaction_timeout;
        let ms = self.ttl_ms();
        let renewal_task = tokio::spawn(async move {
            let mut script = RENEW_LOCKS.prepare_invoke();
            script.key(keys).arg(token).arg(ms);
            while Instant::now() + pause < end {
                tokio::time::sleep(pause).await;
                // one that fails may be the last: the claims end, and the commit tells
                drop(store.connection().run_idempotent::<()>(&script).await);
            }
        });
        self.stop_renewal();
        self.renewal = Some(renewal_task.abort_handle());
    }

    fn stop_renewal(&mut self) {
        if let Some(heart) = self.renewal.take() {
            heart.abort();
        }
    }

    /// Nothing is claimed any more.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
    }
}

impl Drop for TransactionLocks {
    /// Lets go what is still claimed; where nobody can be told, it ends by itself.
    fn drop(&mut self) {
        self.stop_renewal();
        if self.keys.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, token, keys) =
            (self.store.clone(), std::mem::take(&mut self.token), std::mem::take(&mut self.keys));
        runtime.spawn(async move {
            let mut script = RELEASE_LOCKS.prepare_invoke();
            script.key(keys).arg(token);
            if let Err(error) = store.connection().run_idempotent::<()>(&script).await {
                tracing::debug!(%error, "claims of a transaction are left to end by themselves");
            }
        });
    }
}
