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
    Redis, millis, script,
    state::{Page, Told, ToldClaim},
    timestamp,
};
use crate::{
    claims::Claim,
    coordination::{Coordinate as _, kind},
    error::Result,
    queue::Shared,
};

/// How much of a list is told at once.
const AT_ONCE: usize = 200;

impl Redis {
    /// Puts Redis right and tells the others everything, unless another worker is at it.
    pub(super) async fn resync(&self, shared: &Arc<Shared>) {
        let lock = self.keys.resync_lock();
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(millis(self.config.resync_lock_timeout)));
        let locked: Option<Option<String>> = self
            .ask("locking", async |redis| {
                redis::AsyncTypedCommands::set_options(redis, &lock, &self.worker, options).await
            })
            .await;
        if locked.flatten().is_none() {
            return;
        }
        let told = tokio::time::timeout(self.config.resync_lock_timeout, self.tell_state(shared)).await;
        match told {
            Ok(Ok(())) => self.metrics.resyncs.add(1),
            Ok(Err(error)) => tracing::warn!(error = error.log(), "the state was not told"),
            Err(_) => tracing::warn!("telling the state took longer than its lock lasts; the rest is not told"),
        }
        self.ask("unlocking", async |redis| {
            script::RELEASE.key(&lock).arg(&self.worker).invoke_async::<()>(redis).await
        })
        .await;
    }

    async fn tell_state(&self, shared: &Arc<Shared>) -> Result<()> {
        let head = shared.blocking(|shared| shared.log.head()).await?;
        // draws none, but raises the counter to what the files tell
        self.draw(0, Some(head)).await;
        let mut page = 0;
        for some in shared.blocking(Shared::all_subscribers).await?.chunks(AT_ONCE) {
            self.tell_page(&mut page, Told::Subscribers(some.to_vec())).await;
        }
        for ids in shared.blocking(Shared::open_claims).await?.chunks(AT_ONCE) {
            let ids = ids.to_vec();
            let claims = shared.blocking(move |shared| Ok(shared.live_claims(&ids))).await?;
            if !claims.is_empty() {
                self.put_claims(&claims).await;
                self.tell_page(&mut page, Told::Claims(claims.iter().map(ToldClaim::from).collect())).await;
            }
        }
        let mut from = Some(1);
        while let Some(first) = from {
            let some;
            (some, from) = shared.blocking(move |shared| shared.event_ranges(first)).await?;
            self.tell_page(&mut page, Told::Events(some)).await;
        }
        from = Some(1);
        while let Some(first) = from {
            let some;
            (some, from) = shared.blocking(move |shared| shared.result_ranges(first)).await?;
            self.tell_page(&mut page, Told::Results(some)).await;
        }
        self.tell_page(&mut page, Told::End { next_event_id: head + 1 }).await;
        Ok(())
    }

    async fn tell_page(&self, page: &mut u64, told: Told) {
        *page += 1;
        // texts and numbers are always JSON
        if let Ok(Value::Object(data)) = serde_json::to_value(Page { page: *page, told }) {
            self.tell(kind::STATE, vec![data]).await;
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
        self.ask("putting claims", async |redis| put.query_async::<()>(redis).await).await;
    }
}
