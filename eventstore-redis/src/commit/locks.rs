//! The locks of a transaction: a second transaction waits until the first ends, its process dies, or its time is up.
//!
//! Invariant: a lock only saves work: the commit compares epoch, checkpoint and noted deliveries by itself, and refuses
//! what a lock would have prevented. So a lock may expire soon, and a task renews it while the transaction lives.
//!
//! Real time, not the given clock: locks, by the clock of Redis.

use std::{sync::Arc, time::Duration};

use eventbus::support::{Backoff, BackoffTimer};
use eventbus_redis_core::program::AtomicProgram;
use redis::ScriptInvocation;
use tokio::{task::AbortHandle, time::Instant};

use crate::{
    RedisTransactionError,
    commands::millis,
    inner::StoreInner,
    script::{RELEASE_LOCKS, RENEW_LOCKS},
};

/// Delays before a lock that is held is polled again.
const LOCK_POLL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));

/// Longest wait for the lock of a process that died.
const LOCK_TTL_MAX: Duration = Duration::from_secs(1);
/// Renewals of a lock within its TTL.
const LOCK_RENEWALS_PER_TTL: u32 = 4;

#[derive(Debug)]
pub(crate) struct TransactionLocks {
    inner: Arc<StoreInner>,
    /// Value of the lock keys: identifies this transaction.
    token: String,
    keys: Vec<String>,
    /// Time of the first request for a lock: `transaction_timeout` starts here.
    first_requested_at: Option<Instant>,
    renewal: Option<AbortHandle>,
}

impl TransactionLocks {
    pub(crate) fn new(inner: Arc<StoreInner>) -> Self {
        let token = inner.config().clock.new_id().simple().to_string();
        Self { inner, token, keys: Vec::new(), first_requested_at: None, renewal: None }
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Adds the steps that check that the locks are held.
    pub(crate) fn add_checks(&self, program: &mut AtomicProgram) {
        for lock in &self.keys {
            program.require_token(lock, &self.token);
        }
    }

    /// Adds the steps that release the locks.
    pub(crate) fn add_releases(&self, program: &mut AtomicProgram) {
        for lock in &self.keys {
            program.step("release").key(lock);
        }
    }

    /// Returns the time after which a lock expires without a renewal.
    pub(crate) fn ttl_ms(&self) -> u64 {
        millis(self.ttl()).max(1)
    }

    fn ttl(&self) -> Duration {
        LOCK_TTL_MAX.min(self.inner.config().transaction_timeout)
    }

    /// Returns `true` if `transaction_timeout` has passed: the locks may have expired, and waiting transactions gone
    /// on.
    pub(crate) fn is_timed_out(&self) -> bool {
        self.first_requested_at.is_some_and(|since| since.elapsed() > self.inner.config().transaction_timeout)
    }

    /// Runs a script that takes the lock `key`, and polls while it is held. Returns `false` if a commit has made the
    /// work of this transaction obsolete.
    pub(crate) async fn acquire(
        &mut self,
        key: String,
        script: &ScriptInvocation<'_>,
    ) -> Result<bool, RedisTransactionError> {
        // before the script is sent: if the caller drops this future meanwhile, `Drop` releases the lock
        if !self.keys.contains(&key) {
            self.keys.push(key.clone());
        }
        self.first_requested_at.get_or_insert_with(Instant::now);
        let mut backoff = BackoffTimer::new(LOCK_POLL_BACKOFF);
        loop {
            let reply: String =
                self.inner.connection().run_idempotent(script).await.map_err(RedisTransactionError::unavailable)?;
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
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// Renews all locks until the transaction ends, for `transaction_timeout` at most.
    fn start_renewal(&mut self) {
        let (inner, token, keys, pause) =
            (self.inner.clone(), self.token.clone(), self.keys.clone(), self.ttl() / LOCK_RENEWALS_PER_TTL);
        let end = self.first_requested_at.unwrap_or_else(Instant::now) + inner.config().transaction_timeout;
        let ms = self.ttl_ms();
        let renewal_task = tokio::spawn(async move {
            let mut script = RENEW_LOCKS.prepare_invoke();
            script.key(keys).arg(token).arg(ms);
            while Instant::now() + pause < end {
                tokio::time::sleep(pause).await;
                // a failure may let the locks expire; the commit checks for itself
                drop(inner.connection().run_idempotent::<()>(&script).await);
            }
        });
        self.stop_renewal();
        self.renewal = Some(renewal_task.abort_handle());
    }

    fn stop_renewal(&mut self) {
        if let Some(task) = self.renewal.take() {
            task.abort();
        }
    }

    /// Forgets the locks: the commit has released them.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }
}

impl Drop for TransactionLocks {
    /// Releases locks that are still held; outside of a runtime they expire.
    fn drop(&mut self) {
        self.stop_renewal();
        if self.keys.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (inner, token, keys) =
            (self.inner.clone(), std::mem::take(&mut self.token), std::mem::take(&mut self.keys));
        runtime.spawn(async move {
            let mut script = RELEASE_LOCKS.prepare_invoke();
            script.key(keys).arg(token);
            if let Err(error) = inner.connection().run_idempotent::<()>(&script).await {
                tracing::debug!(%error, "locks of a transaction are not released and will expire");
            }
        });
    }
}
