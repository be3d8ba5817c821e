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
    script::store::{KEEP, LET_GO},
    store::{RedisEventStore, lease::millis},
};

/// When a claim of somebody else is looked at again.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// How long others wait for a process that died.
const HOLDS: Duration = Duration::from_secs(1);
/// How many times a claim is renewed within that.
const BEATS: u32 = 4;

#[derive(Debug)]
pub(super) struct Claims {
    store: RedisEventStore,
    /// Tells this transaction from others.
    token: String,
    keys: Vec<String>,
    /// When the first was asked for.
    since: Option<Instant>,
    heart: Option<AbortHandle>,
}

impl Claims {
    pub(super) fn new(store: RedisEventStore) -> Self {
        let token = store.config().clock.new_id().simple().to_string();
        Self { store, token, keys: Vec::new(), since: None, heart: None }
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// How long a claim holds that is not renewed.
    pub(super) fn ms(&self) -> u64 {
        millis(self.holds()).max(1)
    }

    fn holds(&self) -> Duration {
        HOLDS.min(self.store.config().transaction_timeout)
    }

    /// Whether others were told that they wait no longer than this.
    pub(super) fn is_late(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > self.store.config().transaction_timeout)
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
        self.since.get_or_insert_with(Instant::now);
        let mut pause = FIRST_LOOK;
        loop {
            let reply: String = self.store.link().rerun(script).await.map_err(RedisTransactionError::unavailable)?;
            match reply.as_str() {
                "ok" => {
                    self.beat();
                    return Ok(true);
                }
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

    /// Renews all claims as long as this lives, up to the time that a transaction may take.
    fn beat(&mut self) {
        let (store, token, keys, pause) =
            (self.store.clone(), self.token.clone(), self.keys.clone(), self.holds() / BEATS);
        let end = self.since.unwrap_or_else(Instant::now) + store.config().transaction_timeout;
        let ms = self.ms();
        let beating = tokio::spawn(async move {
            let mut script = KEEP.prepare_invoke();
            script.key(keys).arg(token).arg(ms);
            while Instant::now() + pause < end {
                tokio::time::sleep(pause).await;
                // one that fails may be the last: the claims end, and the commit tells
                drop(store.link().rerun::<()>(&script).await);
            }
        });
        self.stop();
        self.heart = Some(beating.abort_handle());
    }

    fn stop(&mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
    }

    /// Nothing is claimed any more.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
    }
}

impl Drop for Claims {
    /// Lets go what is still claimed; where nobody can be told, it ends by itself.
    fn drop(&mut self) {
        self.stop();
        if self.keys.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, token, keys) =
            (self.store.clone(), std::mem::take(&mut self.token), std::mem::take(&mut self.keys));
        runtime.spawn(async move {
            let mut script = LET_GO.prepare_invoke();
            script.key(keys).arg(token);
            if let Err(error) = store.link().rerun::<()>(&script).await {
                tracing::debug!(%error, "claims of a transaction are left to end by themselves");
            }
        });
    }
}
