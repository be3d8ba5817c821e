//! The resync: one worker broadcasts the whole state, after Redis was away and when a worker asks.
//!
//! Invariant: one worker at a time resyncs, and only from the files. It deletes no data in Redis: it only raises the
//! counter, and only sets claims that are missing. A message is small, however many files there are.
//!
//! Real time, not the given clock: the replies of Redis.

use std::sync::Arc;

use redis::{ExistenceCheck, SetExpiry, SetOptions};
use serde_json::{Value, json};

use super::{
    RedisCoordinator, millis, script,
    state::{ClaimSummary, StateContent, StatePage},
    timestamp,
};
use crate::{
    claim_store::Claim,
    coordination::{Coordinator as _, message_kind},
    error::Result,
    inner::QueueInner,
};

/// Maximum number of subscribers or claims on a page.
const PAGE_ITEMS_MAX: usize = 200;

impl RedisCoordinator {
    /// Restores the data in Redis and broadcasts the whole state, unless a different worker holds the resync lock.
    pub(super) async fn resync(&self, queue: &Arc<QueueInner>) {
        let lock = self.keys.resync_lock();
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(millis(self.config.resync_lock_timeout)));
        let locked: Option<Option<String>> = self
            .query("locking", async |redis| {
                redis::AsyncTypedCommands::set_options(redis, &lock, &self.worker_id, options).await
            })
            .await;
        if locked.flatten().is_none() {
            return;
        }
        // no longer than the lock lasts: a second worker may begin then
        let sent = tokio::time::timeout(self.config.resync_lock_timeout, self.broadcast_state(queue)).await;
        match sent {
            Ok(Ok(())) => self.metrics.resyncs.add(1),
            Ok(Err(error)) => tracing::warn!(error = error.log(), "the resync failed"),
            Err(_) => tracing::warn!("the resync took longer than `resync_lock_timeout`; the rest is not sent"),
        }
        self.query("unlocking", async |redis| {
            script::RELEASE_CLAIM.key(&lock).arg(&self.worker_id).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn broadcast_state(&self, queue: &Arc<QueueInner>) -> Result<()> {
        let head = queue.blocking(|queue| queue.log.head()).await?;
        // reserves no id, but raises the counter above the newest id of the files
        self.reserve_ids(0, Some(head)).await;
        let mut page = 0;
        for some in queue.blocking(QueueInner::list_subscribers).await?.chunks(PAGE_ITEMS_MAX) {
            self.broadcast_page(&mut page, StateContent::Subscribers(some.to_vec())).await;
        }
        for ids in queue.blocking(QueueInner::list_open_claims).await?.chunks(PAGE_ITEMS_MAX) {
            let ids = ids.to_vec();
            let claims = queue.blocking(move |queue| Ok(queue.load_live_claims(&ids))).await?;
            if !claims.is_empty() {
                self.put_claims(&claims).await;
                self.broadcast_page(&mut page, StateContent::Claims(claims.iter().map(ClaimSummary::from).collect()))
                    .await;
            }
        }
        let mut from = Some(1);
        while let Some(first) = from {
            let some;
            (some, from) = queue.blocking(move |queue| queue.event_ranges(first)).await?;
            self.broadcast_page(&mut page, StateContent::Events(some)).await;
        }
        from = Some(1);
        while let Some(first) = from {
            let some;
            (some, from) = queue.blocking(move |queue| queue.result_ranges(first)).await?;
            self.broadcast_page(&mut page, StateContent::Results(some)).await;
        }
        self.broadcast_page(&mut page, StateContent::End { next_event_id: head + 1 }).await;
        Ok(())
    }

    async fn broadcast_page(&self, page: &mut u64, content: StateContent) {
        *page += 1;
        // texts and numbers can always be written as JSON
        if let Ok(Value::Object(data)) = serde_json::to_value(StatePage { page: *page, content }) {
            self.broadcast(message_kind::STATE, vec![data]).await;
        }
    }

    /// Sets claims that are missing in Redis.
    async fn put_claims(&self, claims: &[Claim]) {
        let mut put = redis::pipe();
        for claim in claims {
            let created_at = timestamp(claim.created_at);
            let value = json!({"worker_id": claim.worker_id, "created_at": created_at, "data": claim.data});
            let key = self.keys.claim(&claim.claim_id);
            put.cmd("SET").arg(key).arg(value.to_string()).arg("NX").arg("PX").arg(millis(claim.remaining())).ignore();
        }
        self.query("setting claims", async |redis| put.query_async::<()>(redis).await).await;
    }
}
