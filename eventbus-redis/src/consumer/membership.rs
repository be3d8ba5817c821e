//! Membership: heartbeats and claims of a consumer.
//!
//! Membership of a consumer, as the hash `members` records it:
//!
//! | state | event | next state |
//! |---|---|---|
//! | absent | first heartbeat | live |
//! | live | heartbeat within the announced time | live |
//! | live | the consumer shuts down | left: others may claim its idle entries at once |
//! | live | the announced time passes | expired: others reclaim its entries, as redelivered |
//! | left | first heartbeat of the same name | live: its pending entries do not count as redelivered |
//! | expired | heartbeat of the same instance | live |
//! | expired, absent | first heartbeat of the same name | live: its pending entries count as redelivered |
//! | left, expired | the announced time is over, and no entry is pending on the name | absent |

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventbus::port::MessageId;
use redis::{RedisResult, ScriptInvocation, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::inner::{ConsumerInner, MAINTENANCE_INTERVAL_MIN, add_ids};
use crate::{command, error::CommandError, reply::request, script};

/// Longest interval between two heartbeats.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Reply to a heartbeat: the number of entries pending on the consumer, and whether a live consumer has the same name.
pub(super) type HeartbeatReply = (usize, bool);

/// The consumer as a member of its group.
pub(super) struct Membership {
    inner: Arc<ConsumerInner>,
    /// Set once the consumer has announced itself to the group.
    is_announced: AtomicBool,
}

impl Membership {
    pub(super) const fn new(inner: Arc<ConsumerInner>) -> Self {
        Self { inner, is_announced: AtomicBool::new(false) }
    }

    /// Returns `true` if the previous consumer of this name left when it ended. A consumer that the group no longer
    /// knows counts as crashed.
    ///
    /// Invariant: the reader asks before the first heartbeat, which overwrites the record.
    pub(super) async fn has_predecessor_left(&self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let load = request("HGET", (&self.inner.keys().members, self.inner.name()));
        let former: Option<String> = load.query_async(connection).await?;
        let former = former.and_then(|former| serde_json::from_str::<serde_json::Value>(&former).ok());
        Ok(former.is_some_and(|former| former["left"] == true || former["instance"] == *self.inner.bus().instance()))
    }

    /// Announces the consumer to the group by the first heartbeat of a session.
    pub(super) async fn announce(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let _: HeartbeatReply = self.heartbeat_script().invoke_async(connection).await?;
        self.is_announced.store(true, Ordering::Release);
        Ok(())
    }

    /// Sends a heartbeat. The reader sends the first one: until then, returns `None`.
    pub(super) async fn heartbeat(&self) -> Result<Option<HeartbeatReply>, CommandError> {
        if !self.is_announced() {
            return Ok(None);
        }
        self.inner.bus().connection().run_idempotent(&self.heartbeat_script()).await.map(Some)
    }

    fn is_announced(&self) -> bool {
        self.is_announced.load(Ordering::Acquire)
    }

    fn heartbeat_script(&self) -> ScriptInvocation<'static> {
        let mut heartbeat = self.inner.script(&script::consumer::HEARTBEAT);
        heartbeat.key(&self.inner.keys().members).arg(self.inner.bus().config().pending_idle_ms);
        heartbeat.arg(self.inner.bus().instance()).arg(u8::from(self.is_announced())).arg(self.inner.long_run_json());
        heartbeat
    }

    /// Returns the interval between two heartbeats.
    pub(super) fn heartbeat_interval(&self) -> Duration {
        (self.inner.pending_idle() / 6).clamp(MAINTENANCE_INTERVAL_MIN, HEARTBEAT_INTERVAL_MAX)
    }

    /// Renews the claim on entries, and checks that on others. Returns the entries that other consumers have by now, and
    /// the entries that no consumer has.
    pub(super) async fn renew_claims(
        &self,
        checked: &[MessageId],
        renewed: &[MessageId],
    ) -> Result<(Vec<MessageId>, Vec<MessageId>), CommandError> {
        let mut renewal = self.inner.script(&script::consumer::RENEW_CLAIMS);
        renewal.arg(checked.len());
        add_ids(&mut renewal, checked);
        add_ids(&mut renewal, renewed);
        let (lost, free): (Vec<String>, Vec<String>) = self.inner.run_idempotent(&renewal).await?;
        let ids = |ids: Vec<String>| ids.into_iter().map(MessageId::new).collect();
        Ok((ids(lost), ids(free)))
    }

    /// Leaves entries to other consumers, and removes the consumer's name if `removes_name`: it will not come back.
    pub(super) async fn deregister(&self, ids: &[MessageId], removes_name: bool) -> Result<(), CommandError> {
        for ids in ids.chunks(command::SCRIPT_BATCH_MAX).chain(ids.is_empty().then_some(ids)) {
            let mut deregister = self.inner.script(&script::consumer::DEREGISTER_CONSUMER);
            deregister.key(&self.inner.keys().members);
            deregister.arg(self.inner.bus().config().pending_idle_ms);
            deregister.arg(u8::from(removes_name));
            add_ids(&mut deregister, ids);
            self.inner.bus().connection().run_idempotent::<u64>(&deregister).await?;
        }
        Ok(())
    }

    /// Removes consumer names and attempt records that are no longer used.
    pub(super) async fn collect_garbage(&self, cursor: &mut String) -> Result<(), CommandError> {
        let config = self.inner.bus().config();
        let (idle, age) =
            (config.pending_idle_ms.saturating_mul(10), config.retry_key_expiry_seconds.saturating_mul(1_000));
        let mut collection = self.inner.script(&script::consumer::COLLECT_GARBAGE);
        collection.key(&self.inner.keys().retry);
        collection.arg(idle).arg(age).arg(&*cursor);
        let mut reply: Vec<String> = self.inner.bus().connection().run_idempotent(&collection).await?;
        let gone = reply.split_off(1.min(reply.len()));
        *cursor = reply.pop().unwrap_or_else(|| "0".into());
        if !gone.is_empty() {
            tracing::info!(group = %self.inner.group(), consumers = ?gone, "names of dead consumers removed");
        }
        Ok(())
    }
}

/// The members that the consumer has logged.
#[derive(Default)]
pub(super) struct MemberLog {
    /// Time of the last heartbeat that found a live consumer of the same name.
    duplicate_seen_at: Option<Instant>,
}

impl MemberLog {
    /// Logs a live consumer of the same name: once, and again if none was seen for `lifetime`, the time for which a
    /// member counts as alive. Two of one name do not see each other at each heartbeat.
    pub(super) fn log_duplicate_name(&mut self, consumer: &ConsumerInner, is_duplicate: bool, lifetime: Duration) {
        if !is_duplicate {
            return;
        }
        let clock = &consumer.bus().config().clock;
        let seen_at = self.duplicate_seen_at.replace(clock.instant());
        if seen_at.is_none_or(|seen_at| clock.elapsed(seen_at) > lifetime) {
            tracing::error!(
                group = %consumer.group(), consumer = consumer.name(),
                "another consumer of this name is alive: both handle what is pending on it; `consumer_name` must be unique"
            );
        }
    }
}
