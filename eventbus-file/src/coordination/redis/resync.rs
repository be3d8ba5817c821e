//! Telling everybody the whole state: after Redis was away, and when a worker asks.
//!
//! Keep: one worker at a time does it, and only from the files. It takes nothing away: a counter is only raised, a claim
//! only put where there is none. A message is small, however many files there are.
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
    queue::QueueInner,
};

/// How much of a list is told at once.
const PAGE_ITEMS_MAX: usize = 200;

impl RedisCoordinator {
    /// Puts Redis right and tells the others everything, unless another worker is at it.
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
        let told = tokio::time::timeout(self.config.resync_lock_timeout, self.broadcast_state(queue)).await;
        match told {
            Ok(Ok(())) => self.metrics.resyncs.add(1),
            Ok(Err(error)) => tracing::warn!(error = error.log(), "the state was not told"),
            Err(_) => tracing::warn!("telling the state took longer than its lock lasts; the rest is not told"),
        }
        self.query("unlocking", async |redis| {
            script::RELEASE_CLAIM.key(&lock).arg(&self.worker_id).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn broadcast_state(&self, queue: &Arc<QueueInner>) -> Result<()> {
        let head = queue.blocking(|queue| queue.log.head()).await?;
        // draws none, but raises the counter to what the files tell
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
        // texts and numbers are always JSON
        if let Ok(Value::Object(data)) = serde_json::to_value(StatePage { page: *page, content }) {
            self.broadcast(message_kind::STATE, vec![data]).await;
        }
    }

    /// Puts claims where there are none.
    async fn put_claims(&self, claims: &[Claim]) {
        let mut put = redis::pipe();
        for claim in claims {
            let created_at = timestamp(claim.created_at);
            let value = json!({"worker_id": claim.worker_id, "created_at": created_at, "data": claim.data});
            let key = self.keys.claim(&claim.claim_id);
            put.cmd("SET").arg(key).arg(value.to_string()).arg("NX").arg("PX").arg(millis(claim.remaining())).ignore();
        }
        self.query("putting claims", async |redis| put.query_async::<()>(redis).await).await;
    }
}
